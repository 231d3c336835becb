// Problems for the tests of the CPU products, for every dtype, block size, axis and option.
#ifndef BSPARSE_CC_CPU_MATMUL_TESTING_H_
#define BSPARSE_CC_CPU_MATMUL_TESTING_H_

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "cc/cpu/dtype.h"
#include "cc/cpu/kernels.h"
#include "cc/cpu/matmul.h"
#include "gtest/gtest.h"

namespace bsparse {

inline constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64};
inline constexpr Activation kActivations[] = {Activation::kNone, Activation::kRelu, Activation::kGelu};
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInf = std::numeric_limits<float>::infinity();

inline const char* Name(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat16:
      return "float16";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat64:
      return "float64";
  }
  return "";
}

inline bool Is16Bit(DType dtype) { return dtype == DType::kFloat16 || dtype == DType::kBFloat16; }

// Half the distance between neighbours, relative to the number.
inline double RoundingUnit(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return 0x1p-24;
    case DType::kFloat16:
      return 0x1p-11;
    case DType::kBFloat16:
      return 0x1p-8;
    case DType::kFloat64:
      return 0x1p-53;
  }
  return 0;
}

// An array of a dtype chosen at run time, with guard bytes behind it.
class Array {
 public:
  Array(DType dtype, int64_t size) : dtype_(dtype), size_(size), bytes_(size * Width() + kGuard) {
    std::fill(bytes_.begin(), bytes_.end(), char{0x5a});
  }

  int64_t size() const { return size_; }
  void* data() { return bytes_.data(); }
  const void* data() const { return bytes_.data(); }

  double operator[](int64_t i) const {
    switch (dtype_) {
      case DType::kFloat32:
        return Get<float>(i);
      case DType::kFloat16:
        return Widen(Get<Float16>(i));
      case DType::kBFloat16:
        return Widen(Get<BFloat16>(i));
      case DType::kFloat64:
        return Get<double>(i);
    }
    return 0;
  }

  void Set(int64_t i, double value) {
    switch (dtype_) {
      case DType::kFloat32:
        return Put(i, static_cast<float>(value));
      case DType::kFloat16:
        return Put(i, Narrow<Float16>(static_cast<float>(value)));
      case DType::kBFloat16:
        return Put(i, Narrow<BFloat16>(static_cast<float>(value)));
      case DType::kFloat64:
        return Put(i, value);
    }
  }

  bool GuardIntact() const {
    return std::all_of(bytes_.end() - kGuard, bytes_.end(), [](char c) { return c == 0x5a; });
  }

  bool SameBits(const Array& other) const { return bytes_ == other.bytes_; }

 private:
  static constexpr int64_t kGuard = 64;

  int64_t Width() const {
    return dtype_ == DType::kFloat64 ? 8 : dtype_ == DType::kFloat32 ? 4 : 2;
  }

  template <typename T>
  T Get(int64_t i) const {
    T value;
    std::memcpy(&value, bytes_.data() + i * sizeof(T), sizeof(T));
    return value;
  }

  template <typename T>
  void Put(int64_t i, T value) {
    std::memcpy(bytes_.data() + i * sizeof(T), &value, sizeof(T));
  }

  DType dtype_;
  int64_t size_;
  std::vector<char> bytes_;
};

inline Array RandomArray(DType dtype, int64_t size, std::mt19937* random) {
  std::normal_distribution<double> normal;
  Array array(dtype, size);
  for (int64_t i = 0; i < size; ++i) array.Set(i, normal(*random));
  return array;
}

// About `density` of the blocks, in random order; output column 1 and input row 2 stay empty.
std::vector<int32_t> RandomCoords(int in_blocks, int out_blocks, double density,
                                  std::mt19937* random) {
  std::vector<std::pair<int32_t, int32_t>> blocks;
  std::bernoulli_distribution keep(density);
  for (int c = 0; c < in_blocks; ++c) {
    for (int k = 0; k < out_blocks; ++k) {
      if (c != 2 && k != 1 && keep(*random)) blocks.emplace_back(c, k);
    }
  }
  std::shuffle(blocks.begin(), blocks.end(), *random);
  std::vector<int32_t> coords;
  for (const auto& [c, k] : blocks) {
    coords.push_back(c);
    coords.push_back(k);
  }
  return coords;
}

inline void Serial(int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& body) {
  body(0, total);
}

inline void OneByOneBackwards(int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& body) {
  for (int64_t i = total - 1; i >= 0; --i) body(i, i + 1);
}

inline void ThreeThreads(int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& body) {
  std::vector<std::thread> threads;
  for (int64_t t = 0; t < 3; ++t) {
    const int64_t begin = total * t / 3, end = total * (t + 1) / 3;
    if (begin < end) threads.emplace_back([&body, begin, end] { body(begin, end); });
  }
  for (std::thread& thread : threads) thread.join();
}

struct Options {
  DType dtype = DType::kFloat32;
  bool float32_weights = false;
  Activation activation = Activation::kNone;
  int block_size = 8;
  int feature_axis = 1;
  bool transpose = false;
  bool gated = false;
  bool biased = false;
  bool has_residual = false;
  int64_t batch = 0;
};

// One product and everything it needs.
struct Problem {
  Problem(const Options& chosen, int in_blocks, int out_blocks, double density, int seed)
      : options(chosen),
        random(seed),
        coords(RandomCoords(in_blocks, out_blocks, density, &random)),
        blocks(static_cast<int64_t>(coords.size()) / 2),
        index(LayoutView{coords.data(), blocks, in_blocks, out_blocks}, chosen.transpose),
        in(int64_t{index.in_blocks()} * chosen.block_size),
        out(int64_t{index.out_blocks()} * chosen.block_size),
        x(RandomArray(chosen.dtype, in * chosen.batch, &random)),
        dy(RandomArray(chosen.dtype, out * chosen.batch, &random)),
        w(RandomArray(chosen.float32_weights ? DType::kFloat32 : chosen.dtype,
                      blocks * chosen.block_size * chosen.block_size, &random)),
        bias(RandomArray(chosen.dtype, out, &random)),
        residual(RandomArray(chosen.dtype, out * chosen.batch, &random)) {
    for (int64_t b = 0; b < blocks; ++b) gate.push_back(b % 3 == 1 ? 0.0f : 0.3f + 0.1f * b);
  }

  int64_t XAt(int64_t n, int64_t feature) const {
    return options.feature_axis == 1 ? n * in + feature : feature * options.batch + n;
  }
  int64_t YAt(int64_t n, int64_t feature) const {
    return options.feature_axis == 1 ? n * out + feature : feature * options.batch + n;
  }

  Array Multiply(const ParallelFor& parallel_for = Serial) const {
    Array y(options.dtype, out * options.batch);
    MultiplyInto(options.has_residual ? residual.data() : nullptr, &y, parallel_for);
    return y;
  }

  void MultiplyInto(const void* added, Array* y, const ParallelFor& parallel_for) const {
    CpuMatmulArgs args;
    args.dtype = options.dtype;
    args.weight_dtype = options.float32_weights ? DType::kFloat32 : options.dtype;
    args.activation = options.activation;
    args.block_size = options.block_size;
    args.feature_axis = options.feature_axis;
    args.transpose = options.transpose;
    args.batch = options.batch;
    args.index = &index;
    args.x = x.data();
    args.w = w.data();
    args.gate = options.gated ? gate.data() : nullptr;
    args.bias = options.biased ? bias.data() : nullptr;
    args.residual = added;
    args.y = y->data();
    CpuMatmul(args, parallel_for);
  }

  Array MultiplyDw(bool float32_out, const ParallelFor& parallel_for = Serial) const {
    CpuMatmulDwArgs args;
    args.dtype = options.dtype;
    args.out_dtype = float32_out ? DType::kFloat32 : options.dtype;
    args.block_size = options.block_size;
    args.feature_axis = options.feature_axis;
    args.index = &index;
    args.pairs = {{x.data(), dy.data(), options.batch}};
    args.gate = options.gated ? gate.data() : nullptr;
    Array dw(args.out_dtype, blocks * options.block_size * options.block_size);
    args.dw = dw.data();
    CpuMatmulDw(args, parallel_for);
    return dw;
  }

  // w as the product uses it: rounded to dtype, scaled by the gate in float32, rounded once more.
  double Weight(int64_t block, int64_t i, int64_t j) const {
    const int64_t bs = options.block_size;
    Array rounded(options.dtype, 1);
    if (options.transpose) std::swap(i, j);
    rounded.Set(0, w[(block * bs + i) * bs + j]);
    if (options.gated) {
      if (options.dtype == DType::kFloat64) {
        rounded.Set(0, rounded[0] * gate[block]);
      } else {
        rounded.Set(0, static_cast<float>(rounded[0]) * gate[block]);
      }
    }
    return rounded[0];
  }

  Options options;
  std::mt19937 random;
  std::vector<int32_t> coords;
  int64_t blocks;
  BlockIndex index;
  int64_t in, out;
  Array x, dy, w, bias, residual;
  std::vector<float> gate;
};

// For each instruction set (by its rank), dtype, block size, axis, and transposed or not.
class EveryProduct : public testing::TestWithParam<std::tuple<size_t, DType, int, int, bool>> {
 protected:
  void SetUp() override { UseKernelsForTesting(SupportedKernels()[std::get<0>(GetParam())]); }
  void TearDown() override { UseKernelsForTesting(SupportedKernels().front()); }

  bool IsBestTarget() const { return std::get<0>(GetParam()) == 0; }

  Options Chosen() const {
    Options options;
    std::tie(std::ignore, options.dtype, options.block_size, options.feature_axis,
             options.transpose) = GetParam();
    return options;
  }
};

inline std::string ProductName(const testing::TestParamInfo<EveryProduct::ParamType>& info) {
  const auto [target, dtype, block_size, feature_axis, transpose] = info.param;
  return std::string(SupportedKernels()[target].target) + "_" + Name(dtype) + "_block" +
         std::to_string(block_size) + "_axis" + std::to_string(feature_axis) +
         (transpose ? "_transposed" : "");
}

// Every product of this test.
#define BSPARSE_FOR_EVERY_PRODUCT()                                                              \
  INSTANTIATE_TEST_SUITE_P(Cpu, EveryProduct,                                                    \
                           testing::Combine(testing::Range(size_t{0}, SupportedKernels().size()), \
                                            testing::ValuesIn(kDTypes),                           \
                                            testing::ValuesIn(kBlockSizes), testing::Values(0, 1), \
                                            testing::Bool()),                                     \
                           ProductName)

}  // namespace bsparse

#endif  // BSPARSE_CC_CPU_MATMUL_TESTING_H_
