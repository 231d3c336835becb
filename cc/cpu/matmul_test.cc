// The CPU products y = x W against plain loops in float64, and what all products have in common.

#include "cc/cpu/matmul.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "cc/cpu/dtype.h"
#include "cc/cpu/matmul_testing.h"
#include "gtest/gtest.h"

namespace bsparse {
namespace {

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

BSPARSE_FOR_EVERY_PRODUCT();

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
