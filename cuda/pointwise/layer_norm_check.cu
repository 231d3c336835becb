#include "cuda/pointwise/layer_norm_check.h"

#include "cuda/check.h"
#include "cuda/error.h"

namespace bsparse {
namespace {

template <class Args>
bsparse_status check_common(const Args& args) {
  RETURN_IF_FAILED(check_dtype("dtype", args.dtype));
  RETURN_IF_FAILED(check_stored_dtype("param_dtype", args.param_dtype, args.dtype));
  RETURN_IF_FAILED(check_range("feature_axis", args.feature_axis, 0, 1));
  RETURN_IF_FAILED(check_range("batch", args.batch, 0, INT64_MAX));
  RETURN_IF_FAILED(check_range("features", args.features, 1, INT32_MAX));
  RETURN_IF_FAILED(check_range("segments", args.segments, 1, args.features));
  if (args.features % args.segments != 0) {
    return fail(BSPARSE_INVALID_ARGUMENT, "segments is %lld; expected a divisor of features (%lld)",
                static_cast<long long>(args.segments), static_cast<long long>(args.features));
  }
  RETURN_IF_FAILED(check_size("x", args.batch, args.features, 1, 2 * sizeof(float)));
  const size_t param_size = element_size(args.param_dtype);
  RETURN_IF_FAILED(check_pointer("gain", args.gain, param_size));
  RETURN_IF_FAILED(check_pointer("bias", args.bias, param_size));
  if (args.multiplier != nullptr || args.addend != nullptr) {
    if (args.feature_axis != 1 || args.segments != 1 ||
        (args.multiplier != nullptr && args.addend != nullptr)) {
      return fail(BSPARSE_INVALID_ARGUMENT,
                  "expected features last, one segment and only one of multiplier and addend; "
                  "feature_axis is %d, segments is %lld",
                  static_cast<int>(args.feature_axis), static_cast<long long>(args.segments));
    }
    RETURN_IF_FAILED(check_range("operand_stride", args.operand_stride, 0, args.features));
    if (args.operand_stride > 0 && args.features % args.operand_stride != 0) {
      return fail(BSPARSE_INVALID_ARGUMENT,
                  "operand_stride is %lld; expected a divisor of features (%lld)",
                  static_cast<long long>(args.operand_stride),
                  static_cast<long long>(args.features));
    }
    const bool has_multiplier = args.multiplier != nullptr;
    RETURN_IF_FAILED(check_pointer(has_multiplier ? "multiplier" : "addend",
                                   has_multiplier ? args.multiplier : args.addend,
                                   element_size(args.dtype)));
  }
  if (args.batch == 0) return BSPARSE_OK;
  RETURN_IF_FAILED(check_pointer("x", args.x, element_size(args.dtype)));
  RETURN_IF_FAILED(check_pointer("mean", args.mean, sizeof(float)));
  return check_pointer("rstd", args.rstd, sizeof(float));
}

}  // namespace

bsparse_status check_stored_dtype(const char* name, bsparse_dtype stored, bsparse_dtype dtype) {
  if (stored == dtype || stored == BSPARSE_FLOAT32) return BSPARSE_OK;
  return fail(BSPARSE_INVALID_ARGUMENT, "%s is %d; expected dtype (%d) or 0 (float32)", name,
              static_cast<int>(stored), static_cast<int>(dtype));
}

bsparse_status check_layer_norm(const bsparse_layer_norm_args& args) {
  RETURN_IF_FAILED(check_common(args));
  const bool only_statistics = args.y == nullptr && args.feature_axis == 1;
  if (args.batch == 0 || only_statistics) return BSPARSE_OK;
  return check_pointer("y", args.y, element_size(args.dtype));
}

bsparse_status check_layer_norm_grad(const bsparse_layer_norm_grad_args& args) {
  RETURN_IF_FAILED(check_common(args));
  RETURN_IF_FAILED(check_range("sums", args.sums, BSPARSE_SUMS_IN_PARAM_DTYPE, BSPARSE_SUMS_ADDED));
  const size_t sum_size = args.sums == BSPARSE_SUMS_IN_PARAM_DTYPE ? element_size(args.param_dtype)
                                                                   : sizeof(float);
  RETURN_IF_FAILED(check_pointer("dgain", args.dgain, sum_size));
  RETURN_IF_FAILED(check_pointer("dbias", args.dbias, sum_size));
  if (args.batch == 0) return BSPARSE_OK;
  const bool has_operand = args.multiplier != nullptr || args.addend != nullptr;
  if ((args.dz != nullptr) != has_operand || (args.doperand != nullptr) != has_operand) {
    return fail(BSPARSE_INVALID_ARGUMENT,
                "expected dz and doperand with a multiplier or an addend, and only then");
  }
  if (has_operand) {
    RETURN_IF_FAILED(check_pointer("dz", args.dz, element_size(args.dtype)));
    RETURN_IF_FAILED(check_pointer("doperand", args.doperand, element_size(args.dtype)));
  }
  RETURN_IF_FAILED(check_pointer("dy", args.dy, element_size(args.dtype)));
  return check_pointer("dx", args.dx, element_size(args.dtype));
}

}  // namespace bsparse
