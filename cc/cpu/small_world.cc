#include "cc/cpu/small_world.h"

#include <utility>

#include "cc/cpu/dtype.h"
#include "cc/cpu/layer_norm.h"
#include "cc/cpu/lstm_gates.h"
#include "cc/cpu/matmul.h"
#include "cc/cpu/scratch.h"

namespace bsparse {
namespace {

constexpr int64_t kCyclesPerNumber = 4;  // of a row; a hint for the thread pool

// Activations of type T.
template <typename T>
class CpuBackend {
 public:
  using Sum = Accumulator<T>;

  CpuBackend(const CpuSmallWorldNet& net, const std::vector<void*>& dgains,
             const std::vector<void*>& dbiases, const ParallelFor& parallel_for)
      : net_(net), shape_(net.shape), dgains_(dgains), dbiases_(dbiases),
        parallel_for_(parallel_for) {
    for (int j = 0; j < shape_.products(); ++j) {
      gains_.push_back(Widened(net.gains[j], shape_.width(j)));
      biases_.push_back(Widened(net.biases[j], shape_.width(j)));
    }
    normal_.resize(shape_.batch * shape_.width(shape_.depth));
    dh_.resize(dgains.empty() ? 0 : shape_.batch * shape_.units);
    sums_.resize(dgains.empty() ? 0 : 2 * shape_.width(shape_.depth));
  }

  bool ok() const { return true; }

  void Multiply(int product, bool transpose, const void* x, void* y) {
    CpuMatmulArgs args;
    args.dtype = shape_.dtype;
    args.weight_dtype = shape_.dtype;
    args.block_size = net_.block_size;
    args.transpose = transpose;
    args.batch = shape_.batch;
    args.index = &net_.plans[product]->index(transpose);
    args.x = x;
    args.w = net_.weights[product];
    args.y = y;
    CpuMatmul(args, parallel_for_);
  }

  void Norm(const NormCall& call) {
    const bool plain = call.y != nullptr && call.multiplier == nullptr && call.addend == nullptr;
    CpuLayerNormArgs args;
    args.shape = NormShape(call.product, plain && call.relu);
    args.epsilon = shape_.epsilon;
    args.x = call.x;
    args.gain = gains_[call.product].data();
    args.bias = biases_[call.product].data();
    args.y = plain ? call.y : normal_.data();
    args.mean = call.mean;
    args.rstd = call.rstd;
    CpuLayerNorm(args, parallel_for_);
    if (plain || call.y == nullptr) return;
    // From x again, so that what is multiplied or added to is not rounded before.
    const auto* const m = static_cast<const T*>(call.multiplier);
    const auto* const a = static_cast<const T*>(call.addend);
    T* const y = static_cast<T*>(call.y);
    const auto finish = [&](int64_t at, Sum out) {
      y[at] = Store<T>(call.relu && out < 0 ? Sum{0} : out);
    };
    ForEachNormal(call.product, call.x, call.mean, call.rstd, [&](int64_t at, Sum z) {
      if (at % shape_.stride != 0) return finish(at, z);
      const int64_t operand = at / shape_.stride;
      finish(at, m != nullptr ? z * Widen(m[operand]) : z + Widen(a[operand]));
    });
  }

  void NormGrad(const NormGradCall& call) {
    const void* dz = call.dy;
    if (call.dz != nullptr) {
      const auto* const m = static_cast<const T*>(call.multiplier);
      const auto* const a = static_cast<const T*>(call.addend);
      const auto* const dy = static_cast<const T*>(call.dy);
      T* const dz_out = static_cast<T*>(call.dz);
      T* const doperand = static_cast<T*>(call.doperand);
      ForEachNormal(call.product, call.x, call.mean, call.rstd, [&](int64_t at, Sum z) {
        const bool present = at % shape_.stride == 0;
        const int64_t place = at / shape_.stride;
        Sum operand = m != nullptr ? 1 : 0;
        if (present) operand = Widen(m != nullptr ? m[place] : a[place]);
        const Sum out = m != nullptr ? z * operand : z + operand;
        const Sum dout = call.relu && !(out > 0) ? Sum{0} : Widen(dy[at]);
        dz_out[at] = Store<T>(m != nullptr ? dout * operand : dout);
        if (present) doperand[place] = Store<T>(m != nullptr ? dout * z : dout);
      });
      dz = call.dz;
    }
    const int64_t width = shape_.width(call.product);
    Sum* const dgain = static_cast<Sum*>(dgains_[call.product]);
    Sum* const dbias = static_cast<Sum*>(dbiases_[call.product]);
    CpuLayerNormGradArgs args;
    args.shape = NormShape(call.product, call.relu && call.dz == nullptr);
    args.dy = dz;
    args.x = call.x;
    args.gain = gains_[call.product].data();
    args.bias = biases_[call.product].data();
    args.mean = call.mean;
    args.rstd = call.rstd;
    args.dx = call.dx;
    args.dgain = call.first ? dgain : sums_.data();
    args.dbias = call.first ? dbias : sums_.data() + width;
    CpuLayerNormGrad(args, parallel_for_);
    if (call.first) return;
    for (int64_t f = 0; f < width; ++f) {
      dgain[f] += sums_[f];
      dbias[f] += sums_[width + f];
    }
  }

  void Gates(const GatesCall& call) {
    CpuLstmGatesArgs args = GatesArgs(call.gates, call.mean, call.rstd, call.c);
    args.c_next = call.c_next;
    args.h = call.h;
    CpuLstmGates(args, parallel_for_);
  }

  void GatesGrad(const GatesGradCall& call) {
    const auto* const dh = static_cast<const T*>(call.dh);
    const auto* const more = static_cast<const T*>(call.dh_more);
    parallel_for_(shape_.batch * shape_.units, kCyclesPerNumber, [&](int64_t begin, int64_t end) {
      for (int64_t at = begin; at < end; ++at) dh_[at] = Store<T>(Widen(dh[at]) + Widen(more[at]));
    });
    CpuLstmGatesArgs args = GatesArgs(call.gates, call.mean, call.rstd, call.c);
    args.dc_next = call.dc_next;
    args.dh = dh_.data();
    args.dc = call.dc;
    args.dgates = call.dgates;
    CpuLstmGatesGrad(args, parallel_for_);
  }

 private:
  std::vector<Sum> Widened(const void* stored, int64_t size) const {
    if (shape_.param_dtype != shape_.dtype) {
      const auto* const wide = static_cast<const Sum*>(stored);
      return {wide, wide + size};
    }
    const auto* const narrow = static_cast<const T*>(stored);
    std::vector<Sum> wide(size);
    for (int64_t i = 0; i < size; ++i) wide[i] = Widen(narrow[i]);
    return wide;
  }

  CpuLayerNormShape NormShape(int product, bool relu) const {
    CpuLayerNormShape norm;
    norm.dtype = shape_.dtype;
    norm.param_dtype = shape_.stats_dtype();
    norm.relu = relu;
    norm.batch = shape_.batch;
    norm.features = shape_.width(product);
    norm.segments = shape_.segments(product);
    return norm;
  }

  // Calls f(place, z) for every number of a product's layer norm, z = normal * gain + bias. Units
  // are a multiple of the stride, so a place is one of every stride-th if its unit is.
  template <typename F>
  void ForEachNormal(int product, const void* x_data, const void* mean_data,
                     const void* rstd_data, const F& f) const {
    const auto* const x = static_cast<const T*>(x_data);
    const auto* const mean = static_cast<const Sum*>(mean_data);
    const auto* const rstd = static_cast<const Sum*>(rstd_data);
    const int segments = shape_.segments(product);
    const int64_t units = shape_.units;
    parallel_for_(shape_.batch * segments, units * kCyclesPerNumber,
                  [&](int64_t begin, int64_t end) {
                    for (int64_t row = begin; row < end; ++row) {
                      const Sum* const gain = gains_[product].data() + row % segments * units;
                      const Sum* const bias = biases_[product].data() + row % segments * units;
                      for (int64_t i = 0; i < units; ++i) {
                        const int64_t at = row * units + i;
                        f(at, (Widen(x[at]) - mean[row]) * rstd[row] * gain[i] + bias[i]);
                      }
                    }
                  });
  }

  // Normalises the gates into `normal_`.
  CpuLstmGatesArgs GatesArgs(const void* gates, const void* mean, const void* rstd,
                             const void* c) {
    ForEachNormal(shape_.depth, gates, mean, rstd,
                  [&](int64_t at, Sum z) { normal_[at] = Store<T>(z); });
    CpuLstmGatesArgs args;
    args.dtype = shape_.dtype;
    args.cell_dtype = shape_.cell_dtype;
    args.bias_dtype = shape_.dtype;
    args.batch = shape_.batch;
    args.units = shape_.units;
    args.c = c;
    args.gates = normal_.data();
    return args;
  }

  const CpuSmallWorldNet& net_;
  const SmallWorldShape& shape_;
  const std::vector<void*>& dgains_;
  const std::vector<void*>& dbiases_;
  const ParallelFor& parallel_for_;
  std::vector<std::vector<Sum>> gains_, biases_;
  std::vector<T> normal_;  // the widest product's layer norm
  std::vector<T> dh_;
  std::vector<Sum> sums_;
};

template <typename T>
void Forward(const CpuSmallWorldNet& net, const SmallWorldStates& states,
             const ParallelFor& parallel_for) {
  const std::vector<void*> none;
  CpuBackend<T> backend(net, none, none, parallel_for);
  SmallWorldLoop<CpuBackend<T>>(net.shape, states, &backend).Forward();
}

template <typename T>
void Backward(const CpuSmallWorldNet& net, bool kept, const SmallWorldStates& states,
              const SmallWorldGradients& grads, const std::vector<void*>& dgains,
              const std::vector<void*>& dbiases, const ParallelFor& parallel_for) {
  CpuBackend<T> backend(net, dgains, dbiases, parallel_for);
  SmallWorldLoop<CpuBackend<T>>(net.shape, states, &backend).Backward(grads, kept);
}

}  // namespace

void CpuSmallWorld(const CpuSmallWorldNet& net, bool kept, SmallWorldStates states,
                   const ParallelFor& parallel_for) {
  const auto take = [&](void* memory) {
    ScratchPlan plan(memory);
    if (!kept) TakeStates(net.shape, /*together=*/false, &plan, &states);
    return plan.bytes();
  };
  const Scratch<char> scratch(static_cast<int64_t>(take(nullptr)));
  take(scratch.get());
  switch (net.shape.dtype) {
    case DType::kFloat32:
      return Forward<float>(net, states, parallel_for);
    case DType::kFloat16:
      return Forward<Float16>(net, states, parallel_for);
    case DType::kBFloat16:
      return Forward<BFloat16>(net, states, parallel_for);
    case DType::kFloat64:
      return Forward<double>(net, states, parallel_for);
  }
}

void CpuSmallWorldGrad(const CpuSmallWorldNet& net, bool kept, SmallWorldStates states,
                       SmallWorldGradients grads, const std::vector<void*>& dgains,
                       const std::vector<void*>& dbiases, const ParallelFor& parallel_for) {
  const auto take = [&](void* memory) {
    ScratchPlan plan(memory);
    TakeGradients(net.shape, &plan, &grads);
    if (!kept) TakeStates(net.shape, /*together=*/true, &plan, &states);
    return plan.bytes();
  };
  const Scratch<char> scratch(static_cast<int64_t>(take(nullptr)));
  take(scratch.get());
  switch (net.shape.dtype) {
    case DType::kFloat32:
      return Backward<float>(net, kept, states, grads, dgains, dbiases, parallel_for);
    case DType::kFloat16:
      return Backward<Float16>(net, kept, states, grads, dgains, dbiases, parallel_for);
    case DType::kBFloat16:
      return Backward<BFloat16>(net, kept, states, grads, dgains, dbiases, parallel_for);
    case DType::kFloat64:
      return Backward<double>(net, kept, states, grads, dgains, dbiases, parallel_for);
  }
}

}  // namespace bsparse
