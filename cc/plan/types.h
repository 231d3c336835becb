// The small vocabulary that planner, CPU kernels and TensorFlow adapters share.
#ifndef BSPARSE_CC_PLAN_TYPES_H_
#define BSPARSE_CC_PLAN_TYPES_H_

namespace bsparse {

enum class DType { kFloat32, kFloat16, kBFloat16, kFloat64 };

// How float32 numbers may be multiplied: as TensorFlow's switch for TF32 says, exactly, rounded to
// TF32, or as sums of two TF32 numbers. CPUs multiply exactly.
enum class Precision { kDefault, kFloat32, kTf32, kTf32x3 };

enum class Activation { kNone, kRelu, kGelu };

// The block sizes there are kernels for, smallest first.
inline constexpr int kBlockSizes[] = {8, 16, 32, 64, 128};

constexpr bool IsBlockSize(int block_size) {
  for (int supported : kBlockSizes) {
    if (supported == block_size) return true;
  }
  return false;
}

}  // namespace bsparse

#endif  // BSPARSE_CC_PLAN_TYPES_H_
