// The CPU products against plain loops in float64, for every dtype, block size, axis and option.

#include "cc/cpu/matmul.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "cc/cpu/dtype.h"
#include "cc/cpu/kernels.h"
#include "gtest/gtest.h"

namespace bsparse {
namespace {

constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64};
constexpr Activation kActivations[] = {Activation::kNone, Activation::kRelu, Activation::kGelu};
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

const char* Name(DType dtype) {
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

bool Is16Bit(DType dtype) { return dtype == DType::kFloat16 || dtype == DType::kBFloat16; }

// Half the distance between neighbours, relative to the number.
double RoundingUnit(DType dtype) {
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

Array RandomArray(DType dtype, int64_t size, std::mt19937* random) {
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

void Serial(int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& body) {
  body(0, total);
}

void OneByOneBackwards(int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& body) {
  for (int64_t i = total - 1; i >= 0; --i) body(i, i + 1);
}

void ThreeThreads(int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& body) {
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

double Activate(double value, Activation activation) {
  switch (activation) {
    case Activation::kNone:
      return value;
    case Activation::kRelu:
      return value < 0 ? 0 : value;
    case Activation::kGelu:
      return 0.5 * value * std::erfc(-value * std::sqrt(0.5));
  }
  return 0;
}

void ExpectForwardIsRight(const Problem& problem) {
  const Options& options = problem.options;
  const int64_t bs = options.block_size;
  const Array y = problem.Multiply();
  ASSERT_TRUE(y.GuardIntact());
  std::vector<double> sums, sizes;  // and the sums of absolute values, which bound the error
  for (int64_t k = 0; k < problem.index.out_blocks(); ++k) {
    sums.assign(options.batch * bs, 0);
    sizes.assign(options.batch * bs, 0);
    for (int64_t e = problem.index.offsets()[k]; e < problem.index.offsets()[k + 1]; ++e) {
      const BlockIndex::Entry& entry = problem.index.entries()[e];
      if (options.gated && problem.gate[entry.weight_block] == 0) continue;
      for (int64_t i = 0; i < bs; ++i) {
        for (int64_t j = 0; j < bs; ++j) {
          const double weight = problem.Weight(entry.weight_block, i, j);
          for (int64_t n = 0; n < options.batch; ++n) {
            const double product = weight * problem.x[problem.XAt(n, entry.in_block * bs + i)];
            sums[n * bs + j] += product;
            sizes[n * bs + j] += std::abs(product);
          }
        }
      }
    }
    const double unit = options.dtype == DType::kFloat64 ? 0x1p-53 : 0x1p-24;
    for (int64_t n = 0; n < options.batch; ++n) {
      for (int64_t j = 0; j < bs; ++j) {
        const double bias = options.biased ? problem.bias[k * bs + j] : 0;
        const int64_t place = problem.YAt(n, k * bs + j);
        const double residual = options.has_residual ? problem.residual[place] : 0;
        const double want = Activate(sums[n * bs + j] + bias, options.activation) + residual;
        const double got = y[place];
        // The last term is gelu's own error, and 16-bit numbers near zero.
        const double bound = 1.01 * RoundingUnit(options.dtype) * std::abs(want) +
                             16 * unit * (sizes[n * bs + j] + std::abs(bias) +
                                          std::abs(residual)) + 2e-38 +
                             (options.dtype == DType::kFloat16 ? 0x1p-25 : 0);
        ASSERT_NEAR(got, want, bound) << "at n=" << n << " output " << k * bs + j;
      }
    }
  }
}

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

std::string ProductName(const testing::TestParamInfo<EveryProduct::ParamType>& info) {
  const auto [target, dtype, block_size, feature_axis, transpose] = info.param;
  return std::string(SupportedKernels()[target].target) + "_" + Name(dtype) + "_block" +
         std::to_string(block_size) + "_axis" + std::to_string(feature_axis) +
         (transpose ? "_transposed" : "");
}

INSTANTIATE_TEST_SUITE_P(Cpu, EveryProduct,
                         testing::Combine(testing::Range(size_t{0}, SupportedKernels().size()),
                                          testing::ValuesIn(kDTypes),
                                          testing::ValuesIn(kBlockSizes), testing::Values(0, 1),
                                          testing::Bool()),
                         ProductName);

TEST_P(EveryProduct, ForwardAgreesWithLoops) {
  Options options = Chosen();
  int seed = 0;
  for (const int64_t batch : {1, 2, 3, 5, 8, 12, 16, 17, 31, 48, 53, 131}) {
    if (options.block_size == 128 && batch > 53) continue;
    if (!IsBestTarget() && batch != 1 && batch != 8 && batch != 53) continue;
    options.batch = batch;
    options.gated = seed % 2 == 1;
    options.biased = seed % 3 == 1;
    options.activation = kActivations[seed / 2 % 3];
    options.float32_weights = Is16Bit(options.dtype) && seed % 4 >= 2;
    SCOPED_TRACE("batch " + std::to_string(batch));
    ExpectForwardIsRight(Problem(options, 5, 4, 0.6, ++seed));
  }
}

TEST_P(EveryProduct, ResidualIsAddedBeforeRounding) {
  Options options = Chosen();
  options.has_residual = true;
  int seed = 0;
  for (const int64_t batch : {1, 5, 16, 53}) {
    if (!IsBestTarget() && batch != 53) continue;
    options.batch = batch;
    for (const Activation activation : kActivations) {
      options.activation = activation;
      options.biased = seed % 2 == 1;
      options.gated = seed % 4 >= 2;
      SCOPED_TRACE("batch " + std::to_string(batch));
      ExpectForwardIsRight(Problem(options, 5, 4, 0.6, ++seed));
    }
  }
}

TEST_P(EveryProduct, OutputMayReplaceTheResidual) {
  Options options = Chosen();
  options.has_residual = true;
  for (const int64_t batch : {1, 19, 200}) {
    options.batch = batch;
    const Problem problem(options, 6, 7, 0.5, 3);
    const Array apart = problem.Multiply();
    for (const ParallelFor& parallel_for : {ParallelFor(Serial), ParallelFor(ThreeThreads)}) {
      Array y = problem.residual;
      problem.MultiplyInto(y.data(), &y, parallel_for);
      EXPECT_TRUE(apart.SameBits(y));
    }
  }
}

TEST_P(EveryProduct, DenseLayoutsTakeLongChains) {
  Options options = Chosen();
  if (!IsBestTarget()) return;
  options.batch = 18;
  // Over two chains of the most that is added up in one go.
  const int in_blocks = std::max(6, 1200 / options.block_size);
  for (const bool gated : {false, true}) {
    options.gated = gated;
    ExpectForwardIsRight(Problem(options, in_blocks, 6, 1.0, 11));
  }
}

TEST_P(EveryProduct, ThreadsDoNotChangeBits) {
  Options options = Chosen();
  for (const int64_t batch : {1, 19, 200, 250}) {  // 250: panels of two sizes
    options.batch = batch;
    const Problem problem(options, 6, 7, 0.5, 3);
    const Array y = problem.Multiply();
    EXPECT_TRUE(y.SameBits(problem.Multiply(OneByOneBackwards)));
    EXPECT_TRUE(y.SameBits(problem.Multiply(ThreeThreads)));
    if (options.transpose) continue;
    const Array dw = problem.MultiplyDw(false);
    EXPECT_TRUE(dw.SameBits(problem.MultiplyDw(false, OneByOneBackwards)));
    EXPECT_TRUE(dw.SameBits(problem.MultiplyDw(false, ThreeThreads)));
  }
}

TEST_P(EveryProduct, DwAgreesWithLoops) {
  Options options = Chosen();
  if (options.transpose) return;  // dw has no transposed form
  const int64_t bs = options.block_size;
  int seed = 0;
  for (const int64_t batch : {0, 1, 2, 7, 16, 33, 131, 256, 512, 700}) {
    if (bs * batch > 64 * 131 && batch > 33) continue;
    if (!IsBestTarget() && batch != 7 && batch != 33) continue;
    options.batch = batch;
    options.gated = seed % 2 == 1;
    const bool float32_out = Is16Bit(options.dtype) && seed % 4 >= 2;
    SCOPED_TRACE("batch " + std::to_string(batch));
    const Problem problem(options, 5, 4, 0.6, ++seed);
    const Array dw = problem.MultiplyDw(float32_out);
    ASSERT_TRUE(dw.GuardIntact());
    const double unit = options.dtype == DType::kFloat64 ? 0x1p-53 : 0x1p-24;
    const double out_unit = float32_out ? 0x1p-24 : RoundingUnit(options.dtype);
    for (int64_t b = 0; b < problem.blocks; ++b) {
      const double gate = options.gated ? problem.gate[b] : 1;
      for (int64_t i = 0; i < bs; ++i) {
        for (int64_t j = 0; j < bs; ++j) {
          double sum = 0, size = 0;
          for (int64_t n = 0; n < batch; ++n) {
            const double product = problem.x[problem.XAt(n, problem.coords[2 * b] * bs + i)] *
                                   problem.dy[problem.YAt(n, problem.coords[2 * b + 1] * bs + j)];
            sum += product;
            size += std::abs(product);
          }
          const double bound = 1.01 * out_unit * std::abs(gate * sum) + 16 * unit * gate * size +
                               (options.dtype == DType::kFloat16 ? 0x1p-25 : 0);
          ASSERT_NEAR(dw[(b * bs + i) * bs + j], gate * sum, bound)
              << "at block " << b << " (" << i << ", " << j << ")";
        }
      }
    }
  }
}

// The gradient of a batch in several pieces, one of them empty, upon an addend that is dw itself.
TEST_P(EveryProduct, DwSumsPairsUponItsAddend) {
  Options options = Chosen();
  if (options.transpose) return;
  const int64_t bs = options.block_size;
  for (const bool gated : {false, true}) {
    for (const std::vector<int64_t>& batches :
         {std::vector<int64_t>{0, 0}, {19}, {16, 0, 3, 8}, {1, 530}}) {
      if (batches.back() == 530 && (bs > 16 || !IsBestTarget())) continue;
      for (const bool float32_out : {false, true}) {
        if (float32_out && !Is16Bit(options.dtype)) continue;
        CpuMatmulDwArgs args;
        std::deque<Problem> problems;
        for (const int64_t batch : batches) {
          options.batch = batch;
          options.gated = gated;
          problems.emplace_back(options, 3, 2, 0.7, 21);  // of one layout
          Problem& problem = problems.back();
          args.pairs.push_back({problem.x.data(), problem.dy.data(), batch});
        }
        const Problem& first = problems.front();
        args.dtype = options.dtype;
        args.out_dtype = float32_out ? DType::kFloat32 : options.dtype;
        args.block_size = options.block_size;
        args.feature_axis = options.feature_axis;
        args.index = &first.index;
        args.gate = gated ? first.gate.data() : nullptr;
        std::mt19937 random(5);
        const Array addend = RandomArray(args.out_dtype, first.blocks * bs * bs, &random);
        Array dw = addend;
        args.dw = dw.data();
        args.addend = args.dw;
        CpuMatmulDw(args, ThreeThreads);
        ASSERT_TRUE(dw.GuardIntact());
        const double unit = options.dtype == DType::kFloat64 ? 0x1p-53 : 0x1p-24;
        for (int64_t b = 0; b < first.blocks; ++b) {
          const double gate = gated ? first.gate[b] : 1;
          for (int64_t e = 0; e < bs * bs; ++e) {
            double sum = 0, size = 0;
            for (const Problem& p : problems) {
              for (int64_t n = 0; n < p.options.batch; ++n) {
                const double product = p.x[p.XAt(n, p.coords[2 * b] * bs + e / bs)] *
                                       p.dy[p.YAt(n, p.coords[2 * b + 1] * bs + e % bs)];
                sum += product;
                size += std::abs(product);
              }
            }
            const double truth = gate * sum + addend[b * bs * bs + e];
            const double bound = 1.01 * RoundingUnit(args.out_dtype) * std::abs(truth) +
                                 16 * unit * (gate * size + std::abs(addend[b * bs * bs + e])) +
                                 (options.dtype == DType::kFloat16 ? 0x1p-25 : 0);
            ASSERT_NEAR(dw[b * bs * bs + e], truth, bound)
                << "at block " << b << ", element " << e << ", of " << batches.size() << " pairs";
          }
        }
      }
    }
  }
}

TEST_P(EveryProduct, RowsDoNotDependOnTheBatchAroundThem) {
  Options options = Chosen();
  options.batch = 53;
  const Problem large(options, 5, 4, 0.6, 9);
  const Array y = large.Multiply();
  for (const int64_t batch : {1, 4, 17}) {
    options.batch = batch;
    Problem small(options, 5, 4, 0.6, 9);
    for (int64_t n = 0; n < batch; ++n) {
      for (int64_t f = 0; f < small.in; ++f) small.x.Set(small.XAt(n, f), large.x[large.XAt(n, f)]);
    }
    std::memcpy(small.w.data(), large.w.data(), large.w.size() * (Is16Bit(options.dtype) ? 2 : 4));
    if (options.dtype == DType::kFloat64) {
      std::memcpy(small.w.data(), large.w.data(), large.w.size() * 8);
    }
    const Array part = small.Multiply();
    for (int64_t n = 0; n < batch; ++n) {
      for (int64_t f = 0; f < small.out; ++f) {
        ASSERT_EQ(part[small.YAt(n, f)], y[large.YAt(n, f)]) << "batch " << batch << " row " << n;
      }
    }
  }
}

TEST_P(EveryProduct, Float32WeightsEqualCastWeights) {
  Options options = Chosen();
  if (!Is16Bit(options.dtype)) return;
  for (const bool gated : {false, true}) {
    options.batch = 21;
    options.gated = gated;
    options.float32_weights = true;
    Problem problem(options, 4, 4, 0.7, 5);
    const Array y = problem.Multiply();
    Array cast(options.dtype, problem.w.size());
    for (int64_t i = 0; i < cast.size(); ++i) cast.Set(i, problem.w[i]);
    problem.options.float32_weights = false;
    problem.w = cast;
    EXPECT_TRUE(y.SameBits(problem.Multiply()));
  }
}

TEST_P(EveryProduct, NanStaysOutOfSkippedBlocksOnly) {
  Options options = Chosen();
  for (const int64_t batch : {1, 3, 40}) {
    options.batch = batch;
    options.activation = Activation::kRelu;
    options.gated = true;
    Problem problem(options, 3, 3, 1.0, 6);
    const BlockIndex::Entry entry = problem.index.entries()[problem.index.offsets()[0]];
    const int64_t bs = options.block_size;
    for (int64_t i = 0; i < bs * bs; ++i) problem.w.Set(entry.weight_block * bs * bs + i, kNan);
    // Input block `entry.in_block` may feed other outputs through other blocks: switch those off.
    for (const BlockIndex::Entry& other : problem.index.entries()) {
      problem.gate[other.weight_block] = other.in_block == entry.in_block ? 0.0f : 1.0f;
    }
    for (int64_t n = 0; n < batch; ++n) {
      for (int64_t i = 0; i < bs; ++i) {
        problem.x.Set(problem.XAt(n, entry.in_block * bs + i), n % 2 == 0 ? kNan : kInf);
      }
    }
    Array y = problem.Multiply();
    for (int64_t i = 0; i < y.size(); ++i) ASSERT_TRUE(std::isfinite(y[i]));

    problem.gate[entry.weight_block] = 1.0f;  // now it counts, and relu must let it through
    y = problem.Multiply();
    for (int64_t n = 0; n < batch; ++n) {
      for (int64_t j = 0; j < bs; ++j) {
        ASSERT_TRUE(std::isnan(y[problem.YAt(n, j)]));
        ASSERT_TRUE(std::isfinite(y[problem.YAt(n, (problem.index.out_blocks() - 1) * bs + j)]));
      }
    }
  }
}

TEST_P(EveryProduct, InfinityAndOverflowTravel) {
  Options options = Chosen();
  options.batch = 18;
  Problem problem(options, 3, 3, 1.0, 7);
  const int64_t c = problem.index.entries()[problem.index.offsets()[0]].in_block;
  const int64_t bs = options.block_size;
  for (int64_t n = 0; n < options.batch; ++n) problem.x.Set(problem.XAt(n, c * bs), kInf);
  const Array y = problem.Multiply();
  for (int64_t n = 0; n < options.batch; ++n) {
    for (int64_t j = 0; j < bs; ++j) ASSERT_TRUE(std::isinf(y[problem.YAt(n, j)]));
  }
}

TEST(CpuMatmul, EmptyBatchesAndLayouts) {
  for (const DType dtype : kDTypes) {
    for (const int feature_axis : {0, 1}) {
      Options options;
      options.dtype = dtype;
      options.feature_axis = feature_axis;
      EXPECT_TRUE(Problem(options, 3, 3, 1.0, 1).Multiply().GuardIntact());  // batch 0
      options.batch = 5;
      options.biased = true;
      const Problem empty(options, 3, 3, 0.0, 1);
      const Array y = empty.Multiply();
      for (int64_t n = 0; n < options.batch; ++n) {
        for (int64_t j = 0; j < empty.out; ++j) ASSERT_EQ(y[empty.YAt(n, j)], empty.bias[j]);
      }
      EXPECT_TRUE(empty.MultiplyDw(false).GuardIntact());
    }
  }
}

TEST(CpuMatmul, BatchesThatNeedSeveralRoundsOfScratch) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    for (const int block_size : {8, 16}) {
      for (const int feature_axis : {0, 1}) {
        Options options;
        options.dtype = dtype;
        options.block_size = block_size;
        options.feature_axis = feature_axis;
        options.batch = 9007;  // of 8 KiB of float32 each
        SCOPED_TRACE(Name(dtype));
        ExpectForwardIsRight(Problem(options, 2048 / block_size, 3, 0.01, 8));
      }
    }
  }
}

TEST(Gelu, IsExactWhereItMatters) {
  Options options;
  options.biased = true;
  options.activation = Activation::kGelu;
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    options.dtype = dtype;
    options.batch = 1;
    Problem problem(options, 1, 5000, 0.0, 1);
    for (int64_t i = 0; i < problem.out; ++i) problem.bias.Set(i, -12 + 24.0 * i / problem.out);
    problem.bias.Set(0, kInf);
    problem.bias.Set(1, kNan);
    problem.bias.Set(2, 0.0);
    problem.bias.Set(3, 1e30);
    problem.bias.Set(4, -1e30);
    const Array y = problem.Multiply();
    EXPECT_EQ(y[0], kInf);
    EXPECT_TRUE(std::isnan(y[1]));
    EXPECT_EQ(y[2], 0.0);
    EXPECT_EQ(y[3], problem.bias[3]);
    EXPECT_EQ(y[4], 0.0);
    for (int64_t i = 5; i < problem.out; ++i) {
      const double x = problem.bias[i], want = Activate(x, Activation::kGelu);
      // Near zero and above: a few roundings of the result. The far negative tail loses more,
      // through exp of a large argument, but far less than 1 + erf would.
      const double unit = dtype == DType::kFloat64 ? 0x1p-53 : 0x1p-24;
      const double relative = (8 + (x < -1 ? 2 * x * x : 0)) * unit;
      ASSERT_NEAR(y[i], want, relative * std::abs(want) + 1e-37) << "at " << x;
    }
  }
}

TEST(Conversions, Float16RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Float16 half{static_cast<uint16_t>(bits)};
    const double sign = bits & 0x8000 ? -1 : 1;
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    if (exponent == 31) {
      ASSERT_EQ(std::isnan(Widen(half)), mantissa != 0);
      ASSERT_EQ(std::isnan(Widen(Narrow<Float16>(Widen(half)))), mantissa != 0);
      continue;
    }
    const double value = sign * (exponent == 0 ? std::ldexp(mantissa, -24)
                                               : std::ldexp(mantissa + 1024, exponent - 25));
    ASSERT_EQ(Widen(half), value);
    ASSERT_EQ(Narrow<Float16>(Widen(half)).bits, bits);
    if (exponent == 30 && mantissa == 1023) continue;
    // Halfway to the next number away from zero: to even; a hair beside it: to the nearer.
    const float next = Widen(Float16{static_cast<uint16_t>(bits + 1)});
    const float halfway = (Widen(half) + next) / 2;
    ASSERT_EQ(Narrow<Float16>(halfway).bits, bits & 1 ? bits + 1 : bits);
    ASSERT_EQ(Narrow<Float16>(std::nextafter(halfway, next)).bits, bits + 1);
    ASSERT_EQ(Narrow<Float16>(std::nextafter(halfway, Widen(half))).bits, bits);
  }
  EXPECT_EQ(Narrow<Float16>(65519.0f).bits, 0x7bff);
  EXPECT_EQ(Narrow<Float16>(65520.0f).bits, 0x7c00);
  EXPECT_EQ(Narrow<Float16>(-kInf).bits, 0xfc00);
}

TEST(Conversions, BFloat16RoundsToNearestEven) {
  EXPECT_EQ(Narrow<BFloat16>(FloatOf(0x3f808000)).bits, 0x3f80);  // tie, down to even
  EXPECT_EQ(Narrow<BFloat16>(FloatOf(0x3f818000)).bits, 0x3f82);  // tie, up to even
  EXPECT_EQ(Narrow<BFloat16>(FloatOf(0x3f808001)).bits, 0x3f81);
  EXPECT_EQ(Narrow<BFloat16>(FloatOf(0x7f7fffff)).bits, 0x7f80);  // overflows to infinity
  EXPECT_EQ(Narrow<BFloat16>(FloatOf(0x00008001)).bits, 0x0001);  // subnormal
  EXPECT_TRUE(std::isnan(Widen(Narrow<BFloat16>(FloatOf(0x7fffffff)))));
  EXPECT_TRUE(std::isnan(Widen(Narrow<BFloat16>(FloatOf(0xff800001)))));
}

// Vector and scalar conversions must agree: a block whose weights are one identity passes x
// through, so y is x narrowed from its own float32 value.
TEST(Conversions, EveryFloat16PassesThroughTheKernels) {
  for (const int feature_axis : {0, 1}) {
    Options options;
    options.dtype = DType::kFloat16;
    options.feature_axis = feature_axis;
    options.block_size = 16;
    options.batch = 4096;
    Problem problem(options, 1, 1, 1.0, 1);
    for (int64_t i = 0; i < 256; ++i) problem.w.Set(i, i % 17 == 0 ? 1 : 0);
    auto* x = static_cast<uint16_t*>(problem.x.data());
    for (uint32_t i = 0; i < 65536; ++i) {
      // An Inf or NaN would spoil its 15 neighbours; they have tests of their own.
      x[i] = (i >> 10 & 31) == 31 ? 0 : static_cast<uint16_t>(i);
    }
    const Array y = problem.Multiply();
    for (int64_t i = 0; i < 65536; ++i) ASSERT_EQ(y[i], problem.x[i]);
  }
}

}  // namespace
}  // namespace bsparse
