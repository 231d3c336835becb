// The CPU products dw = x^T dy against plain loops in float64.

#include <cmath>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "cc/cpu/matmul.h"
#include "cc/cpu/matmul_testing.h"
#include "gtest/gtest.h"

namespace bsparse {
namespace {

BSPARSE_FOR_EVERY_PRODUCT();

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

}  // namespace
}  // namespace bsparse
