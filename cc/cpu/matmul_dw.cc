#include <vector>

#include "cc/cpu/dtype.h"
#include "cc/cpu/matmul.h"

namespace bsparse {
namespace {

template <typename T, typename Out>
void OuterProducts(const CpuMatmulDwArgs& args, const ParallelFor& parallel_for) {
  using Acc = Accumulator<T>;
  const BlockIndex& index = *args.index;
  const int64_t bs = args.block_size;
  const int64_t in = bs * index.in_blocks(), out = bs * index.out_blocks();
  const bool rows = args.feature_axis == 1;
  const T* x = static_cast<const T*>(args.x);
  const T* dy = static_cast<const T*>(args.dy);
  Out* dw = static_cast<Out*>(args.dw);
  const int64_t x_batch = rows ? in : 1, x_feature = rows ? 1 : args.batch;
  const int64_t dy_batch = rows ? out : 1, dy_feature = rows ? 1 : args.batch;

  parallel_for(index.out_blocks(), 1000 * args.batch * bs, [&](int64_t begin, int64_t end) {
    std::vector<Acc> sums(bs * bs);
    for (int64_t k = begin; k < end; ++k) {
      for (int64_t e = index.offsets()[k]; e < index.offsets()[k + 1]; ++e) {
        const BlockIndex::Entry& entry = index.entries()[e];
        const float gate = args.gate == nullptr ? 1.0f : args.gate[entry.weight_block];
        Out* block = dw + entry.weight_block * bs * bs;
        sums.assign(bs * bs, 0);
        if (gate != 0) {
          for (int64_t n = 0; n < args.batch; ++n) {
            for (int64_t i = 0; i < bs; ++i) {
              const Acc value = Widen(x[n * x_batch + (entry.in_block * bs + i) * x_feature]);
              for (int64_t j = 0; j < bs; ++j) {
                sums[i * bs + j] += value * Widen(dy[n * dy_batch + (k * bs + j) * dy_feature]);
              }
            }
          }
        }
        for (int64_t i = 0; i < bs * bs; ++i) {
          block[i] = Store<Out>(gate == 0 ? Acc{0} : sums[i] * static_cast<Acc>(gate));
        }
      }
    }
  });
}

template <typename T>
void OuterProductsAs(const CpuMatmulDwArgs& args, const ParallelFor& parallel_for) {
  if (args.out_dtype == args.dtype) {
    OuterProducts<T, T>(args, parallel_for);
  } else {
    OuterProducts<T, float>(args, parallel_for);
  }
}

}  // namespace

void CpuMatmulDw(const CpuMatmulDwArgs& args, const ParallelFor& parallel_for) {
  switch (args.dtype) {
    case DType::kFloat32:
      return OuterProductsAs<float>(args, parallel_for);
    case DType::kFloat16:
      return OuterProductsAs<Float16>(args, parallel_for);
    case DType::kBFloat16:
      return OuterProductsAs<BFloat16>(args, parallel_for);
    case DType::kFloat64:
      return OuterProductsAs<double>(args, parallel_for);
  }
}

}  // namespace bsparse
