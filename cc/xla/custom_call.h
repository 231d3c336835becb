// Emitting a typed-FFI custom call into an XLA computation.
#ifndef BSPARSE_CC_XLA_CUSTOM_CALL_H_
#define BSPARSE_CC_XLA_CUSTOM_CALL_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cc/kernels/gpu_launch.h"
#include "tensorflow/core/platform/statusor.h"
#include "xla/hlo/builder/lib/constants.h"
#include "xla/hlo/builder/xla_builder.h"
#include "xla/shape_util.h"

namespace bsparse {

// Attributes of a typed-FFI call, in MLIR's notation for dictionaries.
class AttributeWriter {
 public:
  void operator()(absl::string_view name, bool value) { Add(name, value ? "true" : "false"); }
  void operator()(absl::string_view name, int32_t value) {
    Add(name, absl::StrCat(value, " : i32"));
  }
  void operator()(absl::string_view name, int64_t value) {
    Add(name, absl::StrCat(value, " : i64"));
  }
  void operator()(absl::string_view name, float value) {
    // Nine digits tell all float32 numbers apart.
    Add(name, absl::StrFormat("%.8e : f32", value));
  }
  template <typename Enum, std::enable_if_t<std::is_enum_v<Enum>, int> = 0>
  void operator()(absl::string_view name, Enum value) {
    (*this)(name, static_cast<int32_t>(value));
  }
  void operator()(absl::string_view name, absl::Span<const int32_t> values) {
    Add(name, values.empty() ? "array<i32>"
                             : absl::StrCat("array<i32: ", absl::StrJoin(values, ", "), ">"));
  }

  template <typename Call>
  void Write(const Call& call) {
    Call::Visit(call, *this);
  }

  std::string Dictionary() const { return absl::StrCat("{", text_, "}"); }

 private:
  void Add(absl::string_view name, absl::string_view value) {
    absl::StrAppend(&text_, text_.empty() ? "" : ", ", name, " = ", value);
  }

  std::string text_;
};

inline xla::Shape RowMajor(const xla::Shape& shape) {
  return xla::ShapeUtil::MakeShapeWithDescendingLayout(shape.element_type(), shape.dimensions());
}

// Calls `target`; with scratch_bytes > 0 it gets that much memory as a second result.
inline absl::StatusOr<xla::XlaOp> TypedCall(xla::XlaBuilder* builder, const char* target,
                                            const std::vector<xla::XlaOp>& operands,
                                            const xla::Shape& result, size_t scratch_bytes,
                                            const AttributeWriter& attributes) {
  std::vector<xla::Shape> operand_shapes;
  for (const xla::XlaOp& operand : operands) {
    TF_ASSIGN_OR_RETURN(const xla::Shape shape, builder->GetShape(operand));
    operand_shapes.push_back(RowMajor(shape));
  }
  xla::Shape shape = result;
  if (scratch_bytes > 0) {
    shape = xla::ShapeUtil::MakeTupleShape(
        {result, xla::ShapeUtil::MakeShapeWithDescendingLayout(
                     xla::U8, {static_cast<int64_t>(scratch_bytes)})});
  }
  const xla::XlaOp call = xla::CustomCallWithLayout(
      builder, target, operands, shape, operand_shapes, attributes.Dictionary(),
      /*has_side_effect=*/false, /*output_operand_aliasing=*/{}, /*literal=*/nullptr,
      xla::CustomCallSchedule::SCHEDULE_NONE, xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
  return scratch_bytes > 0 ? xla::GetTupleElement(call, 0) : call;
}

inline size_t WithRoomToAlign(size_t scratch_bytes) {
  return scratch_bytes > 0 ? scratch_bytes + kScratchAlignment : 0;
}

// Activations with the dimensions that are only bounded made static, for a custom call cannot
// take others. The products treat every batch entry by itself, so what lies beyond the true sizes
// does no harm to a matmul; a weight gradient sums over the batch and needs zeros there.
class StaticActivations {
 public:
  enum Beyond { kAnything, kZeros };

  StaticActivations(xla::XlaOp x, const xla::Shape& shape, Beyond beyond) : op_(x) {
    for (int dim = 0; dim < static_cast<int>(shape.dimensions().size()); ++dim) {
      if (!shape.is_dynamic_dimension(dim)) continue;
      sizes_.push_back({dim, xla::GetDimensionSize(op_, dim)});
      op_ = xla::RemoveDynamicDimension(op_, dim);
    }
    if (beyond == kAnything) return;
    for (const auto& [dim, size] : sizes_) {
      const xla::XlaOp position = xla::Iota(
          x.builder(), xla::ShapeUtil::MakeShape(xla::S32, shape.dimensions()), dim);
      op_ = xla::Select(xla::Lt(position, size), op_, xla::ZerosLike(op_));
    }
  }

  xla::XlaOp op() const { return op_; }

  // y with the same batch sizes as x.
  xla::XlaOp Restore(xla::XlaOp y) const {
    for (const auto& [dim, size] : sizes_) y = xla::SetDimensionSize(y, size, dim);
    return y;
  }

 private:
  xla::XlaOp op_;
  std::vector<std::pair<int, xla::XlaOp>> sizes_;
};

}  // namespace bsparse

#endif  // BSPARSE_CC_XLA_CUSTOM_CALL_H_
