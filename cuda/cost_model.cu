#include "cuda/cost_model.h"

#include <algorithm>
#include <cmath>

#include "cuda/check.h"

namespace bsparse {
namespace {

// Measured on an H100 at C = K = N = 8192 and uniform random layouts (benchmarks/results), in useful
// TFLOP/s. A GPU with other proportions is served less well, but never wrongly.
constexpr double kDensities[] = {0.05, 0.25, 1.0};

struct Rates {
  double at[3];  // of kDensities
};

// [block size 8, 16, 32, 64, 128][feature axis]
constexpr Rates kMatmul16[5][2] = {
    {{{47, 52, 58}}, {{16, 19, 50}}},
    {{{95, 105, 110}}, {{55, 70, 125}}},
    {{{210, 260, 400}}, {{160, 245, 400}}},
    {{{270, 480, 680}}, {{278, 480, 680}}},
    {{{330, 490, 640}}, {{330, 480, 640}}},
};
constexpr Rates kMatmulDw16[5][2] = {
    {{{25, 30, 35}}, {{12, 15, 30}}},
    {{{90, 95, 100}}, {{45, 55, 60}}},
    {{{150, 190, 200}}, {{110, 130, 140}}},
    {{{250, 340, 350}}, {{250, 340, 350}}},
    {{{430, 600, 650}}, {{430, 600, 650}}},
};
constexpr Rates kTf32[5] = {
    {{12, 15, 20}}, {{35, 45, 55}}, {{70, 95, 120}}, {{90, 130, 170}}, {{95, 140, 190}},
};
constexpr Rates kFloat32[5] = {
    {{10, 12, 15}}, {{18, 22, 25}}, {{28, 31, 33}}, {{30, 34, 36}}, {{30, 34, 36}},
};
constexpr double kDense16 = 800, kDenseTf32 = 400, kDenseFloat32 = 50;

// Bytes a second that copies reach.
constexpr double kMemoryRate = 2.8e12;

// Clearing and filling the dense matrix are launches of their own.
constexpr double kDenseLaunches = 5e-6;

// Dense is chosen when it wins clearly: the sparse product needs no scratch memory.
constexpr double kMargin = 0.95;

double interpolate(const Rates& rates, double density) {
  const double x = std::log(std::clamp(density, kDensities[0], kDensities[2]));
  for (int i = 0;; ++i) {
    const double left = std::log(kDensities[i]), right = std::log(kDensities[i + 1]);
    if (x <= right || i == 1) {
      return rates.at[i] + (rates.at[i + 1] - rates.at[i]) * (x - left) / (right - left);
    }
  }
}

}  // namespace

bool dense_is_faster(const bsparse_tile_request& request) {
  int row = 0;
  while (8 << row < request.block_size) ++row;
  const int axis = request.feature_axis == 1 ? 1 : 0;
  const bool half = request.dtype != BSPARSE_FLOAT32;
  const bool tf32 = request.allow_tf32 != 0;
  const Rates& rates = half && request.is_dw ? kMatmulDw16[row][axis]
                       : half                ? kMatmul16[row][axis]
                       : tf32                ? kTf32[row]
                                             : kFloat32[row];
  const double dense_rate = half ? kDense16 : tf32 ? kDenseTf32 : kDenseFloat32;
  const double size = static_cast<double>(element_size(request.dtype));
  const double bs = request.block_size;
  const double elements = request.in_blocks * bs * request.out_blocks * bs;
  const double flops = 2.0 * elements * static_cast<double>(request.batch);
  const double density = request.density;
  // The dense matrix is cleared, filled and read; of dw written and read.
  const double dense_bytes = elements * size * (2.0 + 2.0 * density);
  const double dense = flops / (dense_rate * 1e12) + dense_bytes / kMemoryRate + kDenseLaunches;
  const double sparse = density * flops / (interpolate(rates, density) * 1e12);
  return dense < kMargin * sparse;
}

}  // namespace bsparse
