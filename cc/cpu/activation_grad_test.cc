// The gradient of an activation and of a bias against plain loops in float64, for every dtype, axis
// and instruction set of this machine.

#include "cc/cpu/activation_grad.h"

#include <cmath>
#include <limits>
#include <random>
#include <utility>

#include "cc/cpu/pointwise_testing.h"
#include "gtest/gtest.h"

namespace bsparse {
namespace {

INSTANTIATE_TEST_SUITE_P(Cpu, EveryTarget, EveryTarget::Targets(), EveryTarget::NameOf);

constexpr Activation kActivations[] = {Activation::kNone, Activation::kRelu, Activation::kGelu};

double Slope(Activation activation, double value) {
  if (activation == Activation::kNone) return 1;
  if (activation == Activation::kRelu) return value > 0 ? 1 : 0;
  const double pdf = std::exp(-0.5 * value * value) / std::sqrt(2 * M_PI);
  return 0.5 * std::erfc(-value * std::sqrt(0.5)) + value * pdf;
}

// All that a call takes and gives.
struct Problem {
  CpuActivationGradArgs args;
  Tensor dy, values, dz, dbias;

  Problem(DType dtype, DType bias_dtype, Activation activation, int axis, int64_t batch,
          int64_t features)
      : dy(dtype, 0), values(dtype, 0), dz(dtype, batch * features), dbias(bias_dtype, features) {
    std::mt19937 rng(7);
    dy = Random(dtype, batch * features, &rng);
    values = Random(dtype, batch * features, &rng);
    args.dtype = dtype;
    args.bias_dtype = bias_dtype;
    args.activation = activation;
    args.feature_axis = axis;
    args.batch = batch;
    args.features = features;
    args.dy = dy.data();
    args.dbias = dbias.data();
    if (activation == Activation::kNone) return;
    args.values = values.data();
    args.dz = dz.data();
  }

  // dz as the kernel left it.
  const Tensor& result() const { return args.activation == Activation::kNone ? dy : dz; }

  int64_t At(int64_t n, int64_t f) const {
    return args.feature_axis == 1 ? n * args.features + f : f * args.batch + n;
  }
};

void CheckActivationGrad(const Problem& problem) {
  const CpuActivationGradArgs& args = problem.args;
  // Half a unit of a rounded sum's last place, and what float32 loses on the way.
  const double unit = problem.dbias.Tolerance();
  for (int64_t f = 0; f < args.features; ++f) {
    double sum = 0, size = 1;
    for (int64_t n = 0; n < args.batch; ++n) {
      const int64_t at = problem.At(n, f);
      ExpectNear(problem.result(), at, problem.dy[at] * Slope(args.activation, problem.values[at]),
                 "dz");
      sum += problem.result()[at];  // as it is stored
      size += std::abs(problem.result()[at]);
    }
    ASSERT_NEAR(problem.dbias[f], sum, unit * std::abs(sum) + 1e-6 * size) << "dbias at " << f;
  }
}

TEST_P(EveryTarget, ActivationGrad) {
  for (const DType dtype : kDTypes) {
    const DType wide = dtype == DType::kFloat64 ? dtype : DType::kFloat32;
    for (const DType bias_dtype : {dtype, wide}) {
      for (const Activation activation : kActivations) {
        for (const int axis : {0, 1}) {
          for (const auto& [batch, features] :
               {std::pair{0, 3}, {1, 1}, {1, 70}, {67, 131}, {600, 16}, {9000, 3}, {3, 1100}}) {
            const Problem problem(dtype, bias_dtype, activation, axis, batch, features);
            CpuActivationGrad(problem.args, Serially);
            CheckActivationGrad(problem);
          }
        }
      }
    }
  }
}

TEST_P(EveryTarget, ActivationGradInPlaceWithoutBias) {
  for (const DType dtype : kDTypes) {
    for (const Activation activation : {Activation::kRelu, Activation::kGelu}) {
      for (const int axis : {0, 1}) {
        const Problem beside(dtype, dtype, activation, axis, 33, 75);
        CpuActivationGrad(beside.args, Serially);
        for (const bool over_dy : {false, true}) {
          Problem within(dtype, dtype, activation, axis, 33, 75);
          Tensor& reused = over_dy ? within.dy : within.values;
          within.args.dz = reused.data();
          within.args.dbias = nullptr;
          CpuActivationGrad(within.args, Serially);
          EXPECT_EQ(reused.bytes, beside.dz.bytes);
        }
      }
    }
  }
}

TEST_P(EveryTarget, ActivationGradOfSpecialNumbers) {
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::nan("");
  const double values[] = {nan, 0.0, -0.0, infinity, -infinity, 30.0, -30.0, 2.0};
  const double relu[] = {0, 0, 0, 3, 0, 3, 0, 3};
  const double gelu[] = {nan, 1.5, 1.5, nan, nan, 3, 0, 3 * Slope(Activation::kGelu, 2)};
  for (const DType dtype : kDTypes) {
    for (const Activation activation : {Activation::kRelu, Activation::kGelu}) {
      const double* const expected = activation == Activation::kRelu ? relu : gelu;
      // Each number in each lane of a vector.
      Problem problem(dtype, dtype, activation, 1, 8, 64);
      for (int64_t i = 0; i < 8 * 64; ++i) {
        problem.dy.Set(i, 3);
        problem.values.Set(i, values[(i + i / 64) % 8]);
      }
      CpuActivationGrad(problem.args, Serially);
      for (int64_t i = 0; i < 8 * 64; ++i) {
        const double wanted = expected[(i + i / 64) % 8];
        if (std::isnan(wanted)) {
          ASSERT_TRUE(std::isnan(problem.dz[i])) << problem.dz[i] << " at " << i;
        } else {
          ExpectNear(problem.dz, i, wanted, "dz");
        }
      }
    }
  }
}

}  // namespace
}  // namespace bsparse
