// Reading a custom call: attributes into the structs of calls.h, operands in order.
#ifndef BSPARSE_CC_XLA_HANDLER_UTIL_H_
#define BSPARSE_CC_XLA_HANDLER_UTIL_H_

#include <cstddef>
#include <string>
#include <type_traits>

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
    if (!present) return nullptr;
    const auto buffer = operands_.get<xla::ffi::AnyBuffer>(next_++);
    if (buffer.has_value()) return buffer->untyped_data();
    missing_ = true;
    return nullptr;
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
