#include "cc/cpu/matmul.h"

#include <cmath>
#include <vector>

#include "cc/cpu/dtype.h"

namespace bsparse {
namespace {

template <typename Acc>
Acc Activate(Acc value, Activation activation) {
  switch (activation) {
    case Activation::kNone:
      return value;
    case Activation::kRelu:
      return value < 0 ? Acc{0} : value;  // NaN compares false and stays
    case Activation::kGelu:
      return Acc{0.5} * value * std::erfc(-value * static_cast<Acc>(0.70710678118654752440));
  }
  return value;
}

// The weight as the product uses it: rounded to T, scaled by the gate, rounded again.
template <typename T, typename W>
Accumulator<T> EffectiveWeight(W w, const float* gate) {
  const Accumulator<T> rounded = Widen(Store<T>(Widen(w)));
  if (gate == nullptr) return rounded;
  return Widen(Store<T>(rounded * static_cast<Accumulator<T>>(*gate)));
}

template <typename T, typename W>
void Multiply(const CpuMatmulArgs& args, const ParallelFor& parallel_for) {
  using Acc = Accumulator<T>;
  const BlockIndex& index = *args.index;
  const int64_t bs = args.block_size;
  const int64_t in = bs * index.in_blocks(), out = bs * index.out_blocks();
  const bool rows = args.feature_axis == 1;
  const T* x = static_cast<const T*>(args.x);
  const W* w = static_cast<const W*>(args.w);
  const T* bias = static_cast<const T*>(args.bias);
  T* y = static_cast<T*>(args.y);
  const int64_t x_batch = rows ? in : 1, x_feature = rows ? 1 : args.batch;
  const int64_t y_batch = rows ? out : 1, y_feature = rows ? 1 : args.batch;
  const int64_t w_in = args.transpose ? 1 : bs, w_out = args.transpose ? bs : 1;

  parallel_for(index.out_blocks(), 1000 * args.batch * bs, [&](int64_t begin, int64_t end) {
    std::vector<Acc> sums(bs);
    for (int64_t k = begin; k < end; ++k) {
      for (int64_t n = 0; n < args.batch; ++n) {
        for (int64_t j = 0; j < bs; ++j) sums[j] = 0;
        for (int64_t e = index.offsets()[k]; e < index.offsets()[k + 1]; ++e) {
          const BlockIndex::Entry& entry = index.entries()[e];
          const float* gate = args.gate == nullptr ? nullptr : args.gate + entry.weight_block;
          if (gate != nullptr && *gate == 0) continue;
          const W* block = w + entry.weight_block * bs * bs;
          for (int64_t i = 0; i < bs; ++i) {
            const Acc value = Widen(x[n * x_batch + (entry.in_block * bs + i) * x_feature]);
            for (int64_t j = 0; j < bs; ++j) {
              sums[j] += value * EffectiveWeight<T>(block[i * w_in + j * w_out], gate);
            }
          }
        }
        for (int64_t j = 0; j < bs; ++j) {
          const Acc sum = bias == nullptr ? sums[j] : sums[j] + Widen(bias[k * bs + j]);
          y[n * y_batch + (k * bs + j) * y_feature] = Store<T>(Activate(sum, args.activation));
        }
      }
    }
  });
}

template <typename T>
void MultiplyAs(const CpuMatmulArgs& args, const ParallelFor& parallel_for) {
  if (args.weight_dtype == args.dtype) {
    Multiply<T, T>(args, parallel_for);
  } else {
    Multiply<T, float>(args, parallel_for);
  }
}

}  // namespace

void CpuMatmul(const CpuMatmulArgs& args, const ParallelFor& parallel_for) {
  if (args.batch == 0 || args.index->out_blocks() == 0) return;
  switch (args.dtype) {
    case DType::kFloat32:
      return MultiplyAs<float>(args, parallel_for);
    case DType::kFloat16:
      return MultiplyAs<Float16>(args, parallel_for);
    case DType::kBFloat16:
      return MultiplyAs<BFloat16>(args, parallel_for);
    case DType::kFloat64:
      return Multiply<double, double>(args, parallel_for);
  }
}

const char* CpuTargetName() { return "SCALAR"; }

}  // namespace bsparse
