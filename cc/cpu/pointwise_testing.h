// Tensors of every dtype for the tests of kernels that go number by number.
#ifndef BSPARSE_CC_CPU_POINTWISE_TESTING_H_
#define BSPARSE_CC_CPU_POINTWISE_TESTING_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "cc/cpu/dtype.h"
#include "cc/cpu/kernels.h"
#include "cc/plan/types.h"
#include "gtest/gtest.h"

namespace bsparse {

inline constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16,
                                    DType::kFloat64};

// Every number in a range of its own, in reverse: what depends on order or on ranges shows.
inline void Serially(int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& body) {
  for (int64_t i = total; i-- > 0;) body(i, i + 1);
}

// A tensor in its stored type, and what its numbers are.
struct Tensor {
  DType dtype;
  std::vector<char> bytes;

  Tensor(DType dtype, size_t size) : dtype(dtype), bytes(size * ElementSize(dtype), 0x7f) {}

  static size_t ElementSize(DType dtype) {
    return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
  }

  double operator[](size_t i) const {
    switch (dtype) {
      case DType::kFloat64:
        return As<double>()[i];
      case DType::kFloat32:
        return As<float>()[i];
      case DType::kFloat16:
        return Widen(As<Float16>()[i]);
      case DType::kBFloat16:
        return Widen(As<BFloat16>()[i]);
    }
    return 0;
  }

  void Set(size_t i, double value) {
    switch (dtype) {
      case DType::kFloat64:
        const_cast<double*>(As<double>())[i] = value;
        break;
      case DType::kFloat32:
        const_cast<float*>(As<float>())[i] = static_cast<float>(value);
        break;
      case DType::kFloat16:
        const_cast<Float16*>(As<Float16>())[i] = Narrow<Float16>(static_cast<float>(value));
        break;
      case DType::kBFloat16:
        const_cast<BFloat16*>(As<BFloat16>())[i] = Narrow<BFloat16>(static_cast<float>(value));
        break;
    }
  }

  template <typename T>
  const T* As() const {
    return reinterpret_cast<const T*>(bytes.data());
  }
  const void* data() const { return bytes.data(); }
  void* data() { return bytes.data(); }

  // A few units of the last place of numbers of size 1.
  double Tolerance() const {
    switch (dtype) {
      case DType::kFloat64:
        return 1e-13;
      case DType::kFloat32:
        return 2e-6;
      case DType::kFloat16:
        return 1e-3;
      case DType::kBFloat16:
        return 8e-3;
    }
    return 0;
  }
};

inline Tensor Random(DType dtype, size_t size, std::mt19937* rng) {
  Tensor tensor(dtype, size);
  std::normal_distribution<double> normal;
  for (size_t i = 0; i < size; ++i) tensor.Set(i, normal(*rng));
  return tensor;
}

inline void ExpectNear(const Tensor& tensor, size_t i, double expected, const char* what) {
  ASSERT_NEAR(tensor[i], expected, tensor.Tolerance() * std::max(1.0, std::abs(expected)) * 4)
      << what << " at " << i;
}

// The tests of each instruction set of this machine:
// INSTANTIATE_TEST_SUITE_P(Cpu, EveryTarget, EveryTarget::Targets(), EveryTarget::NameOf).
class EveryTarget : public testing::TestWithParam<int> {
 public:
  static auto Targets() {
    return testing::Range(0, static_cast<int>(SupportedKernels().size()));
  }
  static std::string NameOf(const testing::TestParamInfo<int>& info) {
    return SupportedKernels()[info.param].target;
  }

 protected:
  void SetUp() override { UseKernelsForTesting(SupportedKernels()[GetParam()]); }
};

}  // namespace bsparse

#endif  // BSPARSE_CC_CPU_POINTWISE_TESTING_H_
