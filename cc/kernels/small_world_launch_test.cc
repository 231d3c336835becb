// The launches of the small-world LSTM against its CPU kernels, without a GPU: a library whose
// functions do on the host what bsparse_cuda.h says of those on the device.

#include "cc/kernels/small_world_launch.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cc/cpu/layer_norm.h"
#include "cc/cpu/lstm_gates.h"
#include "cc/cpu/matmul.h"
#include "cc/cpu/small_world.h"
#include "gtest/gtest.h"

namespace bsparse {
namespace {

constexpr int kBlock = 8;
constexpr size_t kWorkspace = 1000;  // of a product; of a norm's gradient

const ParallelFor& InOneThread() {
  static const ParallelFor loop = [](int64_t total, int64_t,
                                     const std::function<void(int64_t, int64_t)>& body) {
    if (total > 0) body(0, total);
  };
  return loop;
}

// ---- the library on the host, float32 only ----

std::map<const void*, const LayoutPlans*>& PlansOfWeights() {
  static std::map<const void*, const LayoutPlans*> plans;
  return plans;
}

// Whoever reads a workspace's old contents gets these.
bool SpoilWorkspace(void* workspace, size_t bytes) {
  if (workspace == nullptr || bytes < kWorkspace) return false;
  std::memset(workspace, 0xff, bytes);
  return true;
}

size_t MatmulWorkspace(const bsparse_matmul_args*) { return kWorkspace; }

bsparse_status Matmul(const bsparse_matmul_args* args, void*) {
  if (!SpoilWorkspace(args->workspace, args->workspace_bytes)) return BSPARSE_INVALID_ARGUMENT;
  const BlockIndex& index = PlansOfWeights().at(args->w)->index(args->transpose);
  EXPECT_EQ(args->out_blocks, index.out_blocks());
  CpuMatmulArgs call;
  call.dtype = call.weight_dtype = DType::kFloat32;
  call.block_size = args->block_size;
  call.feature_axis = args->feature_axis;
  call.transpose = args->transpose;
  call.batch = args->batch;
  call.index = &index;
  call.x = args->x;
  call.w = args->w;
  call.y = args->y;
  CpuMatmul(call, InOneThread());
  return BSPARSE_OK;
}

template <typename Args>
CpuLayerNormShape NormShape(const Args& args, bool relu) {
  CpuLayerNormShape shape;
  shape.dtype = shape.param_dtype = DType::kFloat32;
  shape.feature_axis = args.feature_axis;
  shape.relu = relu;
  shape.batch = args.batch;
  shape.features = args.features;
  shape.segments = args.segments;
  return shape;
}

// The multiplier or the addend of each number.
template <typename Args>
std::vector<float> Operands(const Args& args) {
  const bool is_addend = args.addend != nullptr;
  const auto* const given = static_cast<const float*>(is_addend ? args.addend : args.multiplier);
  std::vector<float> all(args.batch * args.features, is_addend ? 0.0f : 1.0f);
  for (size_t i = 0; given != nullptr && i < all.size(); i += args.operand_stride) {
    all[i] = given[i / args.operand_stride];
  }
  return all;
}

bsparse_status LayerNorm(const bsparse_layer_norm_args* args, void*) {
  std::vector<float> z(args->batch * args->features);
  CpuLayerNormArgs call;
  call.shape = NormShape(*args, false);
  call.epsilon = args->epsilon;
  call.x = args->x;
  call.gain = args->gain;
  call.bias = args->bias;
  call.y = z.data();
  call.mean = args->mean;
  call.rstd = args->rstd;
  CpuLayerNorm(call, InOneThread());
  const std::vector<float> operands = Operands(*args);
  auto* const y = static_cast<float*>(args->y);
  for (size_t i = 0; y != nullptr && i < z.size(); ++i) {
    const float out = args->addend != nullptr ? z[i] + operands[i] : z[i] * operands[i];
    y[i] = args->relu && out < 0 ? 0 : out;
  }
  return BSPARSE_OK;
}

size_t LayerNormGradWorkspace(const bsparse_layer_norm_grad_args*) { return kWorkspace; }

bsparse_status LayerNormGrad(const bsparse_layer_norm_grad_args* args, void*) {
  if (!SpoilWorkspace(args->workspace, args->workspace_bytes)) return BSPARSE_INVALID_ARGUMENT;
  const int64_t features = args->features, size = features / args->segments;
  const auto* const x = static_cast<const float*>(args->x);
  const auto* const dy = static_cast<const float*>(args->dy);
  const auto* const gain = static_cast<const float*>(args->gain);
  const auto* const bias = static_cast<const float*>(args->bias);
  const std::vector<float> operands = Operands(*args);
  std::vector<float> dz(args->batch * features);
  for (size_t i = 0; i < dz.size(); ++i) {
    const int64_t f = i % features, row = i / size;
    const float z = (x[i] - args->mean[row]) * args->rstd[row] * gain[f] + bias[f];
    const float out = args->addend != nullptr ? z + operands[i] : z * operands[i];
    const float dout = args->relu && !(out > 0) ? 0 : dy[i];
    dz[i] = args->multiplier != nullptr ? dout * operands[i] : dout;
    if (args->dz == nullptr) continue;
    static_cast<float*>(args->dz)[i] = dz[i];
    if (i % args->operand_stride == 0) {
      static_cast<float*>(args->doperand)[i / args->operand_stride] =
          args->multiplier != nullptr ? dout * z : dout;
    }
  }
  std::vector<float> dgain(features), dbias(features);
  CpuLayerNormGradArgs call;
  call.shape = NormShape(*args, false);
  call.dy = dz.data();
  call.x = x;
  call.gain = gain;
  call.bias = bias;
  call.mean = args->mean;
  call.rstd = args->rstd;
  call.dx = args->dx;
  call.dgain = dgain.data();
  call.dbias = dbias.data();
  CpuLayerNormGrad(call, InOneThread());
  const float kept = args->sums == BSPARSE_SUMS_ADDED ? 1 : 0;
  for (int64_t f = 0; f < features; ++f) {
    float& gains = static_cast<float*>(args->dgain)[f];
    float& biases = static_cast<float*>(args->dbias)[f];
    gains = (kept > 0 ? gains : 0) + dgain[f];
    biases = (kept > 0 ? biases : 0) + dbias[f];
  }
  return BSPARSE_OK;
}

CpuLstmGatesArgs GatesCallOf(const bsparse_lstm_gates_args& args, std::vector<float>* z) {
  const auto* const gates = static_cast<const float*>(args.gates);
  z->resize(4 * args.batch * args.units);
  for (size_t i = 0; i < z->size(); ++i) {
    const size_t f = i % (4 * args.units), row = i / args.units;
    (*z)[i] = (gates[i] - args.mean[row]) * args.rstd[row] *
                  static_cast<const float*>(args.gain)[f] +
              static_cast<const float*>(args.bias)[f];
  }
  CpuLstmGatesArgs call;
  call.dtype = call.cell_dtype = call.bias_dtype = DType::kFloat32;
  call.batch = args.batch;
  call.units = args.units;
  call.forget_bias = args.forget_bias;
  call.c = args.c;
  call.gates = z->data();
  return call;
}

bsparse_status LstmGatesForward(const bsparse_lstm_gates_args* args, void*) {
  std::vector<float> z;
  CpuLstmGatesArgs call = GatesCallOf(*args, &z);
  call.c_next = args->c_next;
  call.h = args->h;
  CpuLstmGates(call, InOneThread());
  return BSPARSE_OK;
}

bsparse_status LstmGatesBackward(const bsparse_lstm_gates_args* args, void*) {
  std::vector<float> z, dh(args->batch * args->units);
  for (size_t i = 0; i < dh.size(); ++i) {
    dh[i] = static_cast<const float*>(args->dh)[i] + static_cast<const float*>(args->dh_more)[i];
  }
  CpuLstmGatesArgs call = GatesCallOf(*args, &z);
  call.dc_next = args->dc_next;
  call.dh = dh.data();
  call.dc = args->dc;
  call.dgates = args->dgates;
  CpuLstmGatesGrad(call, InOneThread());
  return BSPARSE_OK;
}

bsparse_status Fails(const bsparse_lstm_gates_args*, void*) { return BSPARSE_UNSUPPORTED; }

const char* LastError() { return "no gates today"; }

bsparse_cuda_api HostLibrary() {
  bsparse_cuda_api api{};
  api.matmul_workspace = MatmulWorkspace;
  api.matmul = Matmul;
  api.layer_norm = LayerNorm;
  api.layer_norm_grad_workspace = LayerNormGradWorkspace;
  api.layer_norm_grad = LayerNormGrad;
  api.lstm_gates = LstmGatesForward;
  api.lstm_gates_grad = LstmGatesBackward;
  api.last_error = LastError;
  return api;
}

// ---- a net and its tensors ----

using Numbers = std::vector<float>;

struct Net {
  explicit Net(int64_t stride) {
    shape.steps = 4;
    shape.batch = 3;
    shape.units = 6 * kBlock;
    shape.stride = stride;
    shape.depth = 3;
    shape.epsilon = 1e-6f;
    for (int j = 0; j < shape.products(); ++j) {
      const int columns = static_cast<int>(shape.width(j)) / kBlock;
      std::vector<int32_t> coords;
      for (int c = 0; c < 6; ++c) {
        for (int k = 0; k < columns; ++k) {
          if (random() % 2 == 0) coords.insert(coords.end(), {c, k});
        }
      }
      const auto blocks = static_cast<int64_t>(coords.size() / 2);
      std::string error;
      plans.push_back(FindLayoutPlans({coords.data(), blocks, 6, columns}, &error));
      EXPECT_NE(plans.back(), nullptr) << error;
      weights.push_back(Normal(blocks * kBlock * kBlock, 0.3f));
      gains.push_back(Normal(shape.width(j)));
      biases.push_back(Normal(shape.width(j)));
      PlansOfWeights()[weights.back().data()] = plans.back().get();
    }
    const int64_t touched = shape.batch * shape.units / stride;
    m = Normal(shape.steps * touched);
    a = Normal(shape.steps * touched);
    for (Numbers* state : {&h, &c, &dh_last, &dc_last}) *state = Normal(State());
    dhidden = Normal(shape.steps * State());
  }

  int64_t State() const { return shape.batch * shape.units; }

  Numbers Normal(int64_t size, float scale = 1) {
    std::normal_distribution<float> distribution(0, scale);
    Numbers numbers(size);
    for (float& number : numbers) number = distribution(random);
    return numbers;
  }

  CpuSmallWorldNet Cpu() const {
    CpuSmallWorldNet net;
    net.shape = shape;
    net.block_size = kBlock;
    net.plans = plans;
    for (int j = 0; j < shape.products(); ++j) {
      net.weights.push_back(weights[j].data());
      net.gains.push_back(gains[j].data());
      net.biases.push_back(biases[j].data());
    }
    return net;
  }

  GpuSmallWorldNet Gpu(bool forward, bool transposed) const {
    GpuSmallWorldNet net;
    net.shape = shape;
    for (int j = 0; j < shape.products(); ++j) {
      net.gains.push_back(gains[j].data());
      net.biases.push_back(biases[j].data());
      for (const bool transpose : {false, true}) {
        if (!(transpose ? transposed : forward)) continue;
        bsparse_matmul_args args;
        EXPECT_TRUE(SmallWorldProduct(shape, kBlock, j, transpose, BSPARSE_FLOAT32_EXACT, &args).ok());
        args.w = weights[j].data();
        (transpose ? net.transposed : net.forward).push_back(args);
      }
    }
    return net;
  }

  std::mt19937 random{7};
  SmallWorldShape shape;
  std::vector<std::shared_ptr<const LayoutPlans>> plans;
  std::vector<Numbers> weights, gains, biases;
  Numbers m, a, h, c, dhidden, dh_last, dc_last;
};

OverTime Steps(Numbers* numbers, int64_t steps) {
  return {numbers->data(), numbers->size() / steps * sizeof(float)};
}

// All that a way forward and a way back write.
struct Results {
  explicit Results(const Net& net) {
    const SmallWorldShape& shape = net.shape;
    const int64_t steps = shape.steps, state = net.State();
    for (Numbers* sequence : {&hidden, &cells}) sequence->resize(steps * state);
    mean.resize(steps * (shape.depth + kGates) * shape.batch);
    rstd.resize(mean.size());
    dm.resize(net.m.size());
    da.resize(net.a.size());
    dh.resize(state);
    dc.resize(state);
    for (int j = 0; j < shape.products(); ++j) {
      products.emplace_back(steps * shape.batch * shape.width(j));
      dproducts.push_back(products.back());
      dgains.emplace_back(shape.width(j));
      dbiases.emplace_back(shape.width(j));
    }
    operands.assign(shape.depth, Numbers(steps * state));
  }

  SmallWorldStates States(Net* net, bool kept, bool backward) {
    const int64_t steps = net->shape.steps;
    SmallWorldStates states;
    states.m = Steps(&net->m, steps);
    states.a = Steps(&net->a, steps);
    states.h_first = net->h.data();
    states.c_first = net->c.data();
    states.h = Steps(&hidden, steps);
    states.c = Steps(&cells, steps);
    if (kept || backward) {
      for (Numbers& operand : operands) states.operands.push_back(Steps(&operand, steps));
    }
    if (!kept) return states;
    states.mean = Steps(&mean, steps);
    states.rstd = Steps(&rstd, steps);
    for (Numbers& product : products) states.products.push_back(Steps(&product, steps));
    return states;
  }

  SmallWorldGradients Gradients(Net* net) {
    const int64_t steps = net->shape.steps;
    SmallWorldGradients grads;
    grads.dh = Steps(&net->dhidden, steps);
    grads.dh_last = net->dh_last.data();
    grads.dc_last = net->dc_last.data();
    grads.dm = Steps(&dm, steps);
    grads.da = Steps(&da, steps);
    grads.dh_first = dh.data();
    grads.dc_first = dc.data();
    for (Numbers& dproduct : dproducts) grads.dproducts.push_back(Steps(&dproduct, steps));
    return grads;
  }

  static std::vector<void*> Pointers(std::vector<Numbers>* all) {
    std::vector<void*> pointers;
    for (Numbers& numbers : *all) pointers.push_back(numbers.data());
    return pointers;
  }

  Numbers hidden, cells, mean, rstd, dm, da, dh, dc;
  std::vector<Numbers> products, operands, dproducts, dgains, dbiases;
};

void ExpectClose(const Numbers& found, const Numbers& wanted, const std::string& what) {
  ASSERT_EQ(found.size(), wanted.size()) << what;
  float largest = 1;
  for (float number : wanted) largest = std::max(largest, std::abs(number));
  for (size_t i = 0; i < wanted.size(); ++i) {
    ASSERT_NEAR(found[i], wanted[i], 1e-4 * largest) << what << " at " << i;
  }
}

void ExpectClose(const std::vector<Numbers>& found, const std::vector<Numbers>& wanted,
                 const std::string& what) {
  for (size_t i = 0; i < wanted.size(); ++i) {
    ExpectClose(found[i], wanted[i], what + " " + std::to_string(i));
  }
}

class SmallWorldLaunch : public testing::TestWithParam<std::tuple<bool, int64_t>> {};

TEST_P(SmallWorldLaunch, DoesWhatTheCpuDoes) {
  const auto [kept, stride] = GetParam();
  Net net(stride);
  const bsparse_cuda_api api = HostLibrary();

  Results wanted(net);
  CpuSmallWorld(net.Cpu(), kept, wanted.States(&net, kept, false), InOneThread());
  CpuSmallWorldGrad(net.Cpu(), kept, wanted.States(&net, kept, true), wanted.Gradients(&net),
                    Results::Pointers(&wanted.dgains), Results::Pointers(&wanted.dbiases),
                    InOneThread());

  Results found(net);
  const GpuSmallWorldNet forward = net.Gpu(true, false);
  // Of exactly the size that was asked for: a tool that watches memory sees every step beyond it.
  std::vector<char> scratch(SmallWorldScratchBytes(api, forward, kept));
  ASSERT_TRUE(LaunchSmallWorld(api, forward, kept, found.States(&net, kept, false),
                               scratch.data(), nullptr).ok());
  const GpuSmallWorldNet backward = net.Gpu(!kept, true);
  scratch.assign(SmallWorldGradScratchBytes(api, backward, kept), '\xff');
  ASSERT_TRUE(LaunchSmallWorldGrad(api, backward, kept, found.States(&net, kept, true),
                                   found.Gradients(&net), Results::Pointers(&found.dgains),
                                   Results::Pointers(&found.dbiases), scratch.data(), nullptr)
                  .ok());

  ExpectClose(found.hidden, wanted.hidden, "hidden");
  ExpectClose(found.cells, wanted.cells, "cells");
  ExpectClose(found.products, wanted.products, "product");
  ExpectClose(found.operands, wanted.operands, "operand");
  ExpectClose(found.dm, wanted.dm, "dm");
  ExpectClose(found.da, wanted.da, "da");
  ExpectClose(found.dh, wanted.dh, "dh");
  ExpectClose(found.dc, wanted.dc, "dc");
  ExpectClose(found.dproducts, wanted.dproducts, "dproduct");
  ExpectClose(found.dgains, wanted.dgains, "dgain");
  ExpectClose(found.dbiases, wanted.dbiases, "dbias");
}

INSTANTIATE_TEST_SUITE_P(Modes, SmallWorldLaunch,
                         testing::Combine(testing::Bool(), testing::Values(1, 4)));

TEST(SmallWorldLaunchTest, ReportsTheFirstFailure) {
  Net net(1);
  bsparse_cuda_api api = HostLibrary();
  api.lstm_gates = Fails;
  Results results(net);
  const GpuSmallWorldNet forward = net.Gpu(true, false);
  std::vector<char> scratch(SmallWorldScratchBytes(api, forward, true));
  const GpuStatus status = LaunchSmallWorld(
      api, forward, true, results.States(&net, true, false), scratch.data(), nullptr);
  EXPECT_EQ(status.code, BSPARSE_UNSUPPORTED);
  EXPECT_EQ(status.message, "no gates today");
}

TEST(SmallWorldLaunchTest, RefusesFloat64) {
  Net net(1);
  GpuSmallWorldNet forward = net.Gpu(true, false);
  forward.shape.dtype = DType::kFloat64;
  const GpuStatus status =
      LaunchSmallWorld(HostLibrary(), forward, true, SmallWorldStates(), nullptr, nullptr);
  EXPECT_EQ(status.code, BSPARSE_UNSUPPORTED);
}

}  // namespace
}  // namespace bsparse
