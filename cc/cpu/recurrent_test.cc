// Layer norm and LSTM gates against plain loops in float64, for every dtype, axis and instruction
// set of this machine.

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "cc/cpu/layer_norm.h"
#include "cc/cpu/lstm_gates.h"
#include "cc/cpu/pointwise_testing.h"
#include "gtest/gtest.h"

namespace bsparse {
namespace {

INSTANTIATE_TEST_SUITE_P(Cpu, EveryTarget, EveryTarget::Targets(), EveryTarget::NameOf);

void CheckLayerNorm(DType dtype, int axis, int64_t batch, int64_t features, int64_t segments,
                    bool relu) {
  std::mt19937 rng(7);
  const DType stats = dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  const Tensor x = Random(dtype, batch * features, &rng);
  const Tensor dy = Random(dtype, batch * features, &rng);
  const Tensor gain = Random(dtype, features, &rng), bias = Random(dtype, features, &rng);
  Tensor y(dtype, batch * features), dx(dtype, batch * features);
  Tensor mean(stats, batch * segments), rstd(stats, batch * segments);
  Tensor dgain(dtype, features), dbias(dtype, features);
  const CpuLayerNormShape shape = {dtype, dtype, axis, relu, batch, features, segments};
  CpuLayerNormArgs forward;
  forward.shape = shape;
  forward.epsilon = 1e-6;
  forward.x = x.data();
  forward.gain = gain.data();
  forward.bias = bias.data();
  forward.y = y.data();
  forward.mean = mean.data();
  forward.rstd = rstd.data();
  CpuLayerNorm(forward, Serially);
  CpuLayerNormGradArgs backward;
  backward.shape = shape;
  backward.dy = dy.data();
  backward.x = x.data();
  backward.gain = gain.data();
  backward.bias = bias.data();
  backward.mean = mean.data();
  backward.rstd = rstd.data();
  backward.dx = dx.data();
  backward.dgain = dgain.data();
  backward.dbias = dbias.data();
  CpuLayerNormGrad(backward, Serially);

  const int64_t size = features / segments;
  const auto at = [&](int64_t n, int64_t f) {
    return axis == 1 ? n * features + f : f * batch + n;
  };
  std::vector<double> exact_dgain(features), exact_dbias(features);
  for (int64_t n = 0; n < batch; ++n) {
    for (int64_t first = 0; first < features; first += size) {
      double sum = 0, squares = 0;
      for (int64_t f = first; f < first + size; ++f) sum += x[at(n, f)];
      const double m = sum / size;
      for (int64_t f = first; f < first + size; ++f) squares += std::pow(x[at(n, f)] - m, 2);
      const double r = 1 / std::sqrt(squares / size + 1e-6);
      const auto normal = [&](int64_t f) { return (x[at(n, f)] - m) * r; };
      const auto z = [&](int64_t f) { return normal(f) * gain[f] + bias[f]; };
      const auto dz = [&](int64_t f) { return relu && z(f) <= 0 ? 0 : dy[at(n, f)]; };
      double g = 0, g_normal = 0;
      for (int64_t f = first; f < first + size; ++f) {
        g += dz(f) * gain[f] / size;
        g_normal += dz(f) * gain[f] * normal(f) / size;
        exact_dgain[f] += dz(f) * normal(f);
        exact_dbias[f] += dz(f);
      }
      for (int64_t f = first; f < first + size; ++f) {
        ExpectNear(y, at(n, f), relu ? std::max(z(f), 0.0) : z(f), "y");
        ExpectNear(dx, at(n, f), r * (dz(f) * gain[f] - g - normal(f) * g_normal), "dx");
      }
    }
  }
  for (int64_t f = 0; f < features; ++f) {
    ExpectNear(dgain, f, exact_dgain[f], "dgain");
    ExpectNear(dbias, f, exact_dbias[f], "dbias");
  }
}

TEST_P(EveryTarget, LayerNorm) {
  for (const DType dtype : kDTypes) {
    for (const int axis : {0, 1}) {
      for (const bool relu : {false, true}) {
        CheckLayerNorm(dtype, axis, 1, 16, 1, relu);
        CheckLayerNorm(dtype, axis, 67, 131, 1, relu);
        CheckLayerNorm(dtype, axis, 130, 66, 3, relu);
        CheckLayerNorm(dtype, axis, 3, 2100, 2, relu);
      }
    }
  }
}

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

void CheckLstmGates(DType dtype, DType cell_dtype, int axis, int64_t batch, int64_t units) {
  std::mt19937 rng(8);
  const Tensor c = Random(cell_dtype, batch * units, &rng);
  const Tensor gates = Random(dtype, 4 * batch * units, &rng);
  const Tensor bias = Random(dtype, 4 * units, &rng);
  const Tensor dc_next = Random(cell_dtype, batch * units, &rng);
  const Tensor dh = Random(dtype, batch * units, &rng);
  Tensor c_next(cell_dtype, batch * units), h(dtype, batch * units);
  Tensor dc(cell_dtype, batch * units), dgates(dtype, 4 * batch * units);
  CpuLstmGatesArgs args;
  args.dtype = args.bias_dtype = dtype;
  args.cell_dtype = cell_dtype;
  args.feature_axis = axis;
  args.forget_bias = 0.5f;
  args.batch = batch;
  args.units = units;
  args.c = c.data();
  args.gates = gates.data();
  args.bias = bias.data();
  args.c_next = c_next.data();
  args.h = h.data();
  args.dc_next = dc_next.data();
  args.dh = dh.data();
  args.dc = dc.data();
  args.dgates = dgates.data();
  CpuLstmGates(args, Serially);
  CpuLstmGatesGrad(args, Serially);
  for (int64_t n = 0; n < batch; ++n) {
    for (int64_t u = 0; u < units; ++u) {
      const auto at = [&](int64_t g) {
        return axis == 1 ? (n * 4 + g) * units + u : (g * units + u) * batch + n;
      };
      const auto sum = [&](int64_t g) { return gates[at(g)] + bias[g * units + u]; };
      const double i = Sigmoid(sum(0)), f = Sigmoid(sum(1) + 0.5), g = std::tanh(sum(2)),
                   o = Sigmoid(sum(3));
      const int64_t cell = axis == 1 ? n * units + u : u * batch + n;
      const double next = f * c[cell] + i * g, tanh_c = std::tanh(next);
      const double d = dc_next[cell] + dh[cell] * o * (1 - tanh_c * tanh_c);
      ExpectNear(c_next, cell, next, "c_next");
      ExpectNear(h, cell, o * tanh_c, "h");
      ExpectNear(dc, cell, d * f, "dc");
      ExpectNear(dgates, at(0), d * g * i * (1 - i), "di");
      ExpectNear(dgates, at(1), d * c[cell] * f * (1 - f), "df");
      ExpectNear(dgates, at(2), d * i * (1 - g * g), "dg");
      ExpectNear(dgates, at(3), dh[cell] * tanh_c * o * (1 - o), "do");
    }
  }
}

TEST_P(EveryTarget, LstmGates) {
  for (const DType dtype : kDTypes) {
    for (const int axis : {0, 1}) {
      const DType wide = dtype == DType::kFloat64 ? dtype : DType::kFloat32;
      for (const DType cell_dtype : {dtype, wide}) {
        CheckLstmGates(dtype, cell_dtype, axis, 1, 1);
        CheckLstmGates(dtype, cell_dtype, axis, 5, 37);
        CheckLstmGates(dtype, cell_dtype, axis, 33, 16);
      }
    }
  }
}

}  // namespace
}  // namespace bsparse
