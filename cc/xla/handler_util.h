// Reading a custom call: attributes into the structs of calls.h, operands in order.
#ifndef BSPARSE_CC_XLA_HANDLER_UTIL_H_
#define BSPARSE_CC_XLA_HANDLER_UTIL_H_

#include <cstddef>
#include <string>
#include <type_traits>
#include <vector>

#include "cc/xla/calls.h"
#include "xla/ffi/api/ffi.h"

namespace bsparse {

// Fills the structs of calls.h. error() is the first attribute that was missing or of another
// type, which only an executable made by another version of this library can bring about.
class AttributeReader {
 public:
  explicit AttributeReader(const xla::ffi::Dictionary& attrs) : attrs_(attrs) {}

  template <typename Call>
  Call Read() {
    Call call;
    Call::Visit(call, *this);
    return call;
  }

  template <typename T>
  void operator()(const char* name, T& value) {
    if constexpr (std::is_enum_v<T>) {
      int32_t number = 0;
      (*this)(name, number);
      value = static_cast<T>(number);
    } else {
      xla::ffi::ErrorOr<T> found = attrs_.get<T>(name);
      if (found.has_value()) {
        value = *found;
      } else if (error_.success()) {
        error_ = xla::ffi::Error::Internal(std::string("attribute ") + name + ": " +
                                           found.error().message());
      }
    }
  }

  const xla::ffi::Error& error() const { return error_; }

 private:
  const xla::ffi::Dictionary& attrs_;
  xla::ffi::Error error_ = xla::ffi::Error::Success();
};

// Hands out a call's operands one after the other.
class OperandReader {
 public:
  explicit OperandReader(const xla::ffi::RemainingArgs& operands) : operands_(operands) {}

  // The next operand's memory; null if it is absent from this call (not `present`) or, with
  // missing() set, if the call has fewer operands than its attributes say.
  void* Next(bool present = true) {
    int64_t elements;
    return present ? Next(&elements) : nullptr;
  }

  // Says how many elements it has, too.
  void* Next(int64_t* elements) {
    const auto buffer = operands_.get<xla::ffi::AnyBuffer>(next_++);
    missing_ = missing_ || !buffer.has_value();
    *elements = buffer.has_value() ? static_cast<int64_t>(buffer->element_count()) : 0;
    return buffer.has_value() ? buffer->untyped_data() : nullptr;
  }

  // The pairs of a weight gradient, `Pair` a bsparse_dw_pair or a CpuDwPair.
  template <typename Pair>
  std::vector<Pair> NextPairs(const xla_calls::MatmulDw& call) {
    std::vector<Pair> pairs(call.num_pairs);
    for (Pair& pair : pairs) {
      int64_t elements;
      pair.x = Next(&elements);
      pair.batch = elements / (int64_t{call.in_blocks} * call.block_size);
    }
    for (Pair& pair : pairs) pair.dy = Next();
    return pairs;
  }

  bool missing() const { return missing_; }

 private:
  const xla::ffi::RemainingArgs& operands_;
  size_t next_ = 0;
  bool missing_ = false;
};

inline xla::ffi::Error WrongOperands() {
  return xla::ffi::Error::Internal("the call has fewer operands than its attributes say");
}

}  // namespace bsparse

#endif  // BSPARSE_CC_XLA_HANDLER_UTIL_H_
