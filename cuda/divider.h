// Division on the device by numbers that the host knows.
#ifndef BSPARSE_CUDA_DIVIDER_H_
#define BSPARSE_CUDA_DIVIDER_H_

#include <cuda_runtime.h>

#include <cstdint>

namespace bsparse {

// A multiplication in place of a division (Granlund, Montgomery: "Division by Invariant Integers
// using Multiplication", 1994).
class Divider {
 public:
  Divider() = default;
  explicit Divider(uint32_t divisor) : divisor_(divisor) {
    if (divisor > 1) shift_ += 32 - __builtin_clz(divisor - 1);
    multiplier_ = static_cast<uint32_t>(((uint64_t{1} << shift_) + divisor - 1) / divisor);
  }

  // For numerators below 2^31.
  __device__ __forceinline__ uint32_t quotient(uint32_t numerator) const {
    return static_cast<uint32_t>(uint64_t{numerator} * multiplier_ >> shift_);
  }
  __device__ __forceinline__ uint32_t remainder(uint32_t numerator, uint32_t quotient) const {
    return numerator - quotient * divisor_;
  }

 private:
  uint32_t divisor_ = 1;
  uint32_t multiplier_ = 1u << 31;
  uint32_t shift_ = 31;
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_DIVIDER_H_
