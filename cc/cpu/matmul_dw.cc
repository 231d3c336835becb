#include <algorithm>
#include <type_traits>
#include <vector>

#include "cc/cpu/dtype.h"
#include "cc/cpu/kernels.h"
#include "cc/cpu/matmul.h"
#include "cc/cpu/partition.h"
#include "cc/cpu/scratch.h"

namespace bsparse {
namespace {

// The batch is summed over in rounds of at most this much, so that what a round packs stays in the
// shared cache.
constexpr int64_t kRoundBatch = 512;
constexpr int64_t kPackedFeatures = 128;  // of a unit of packing
constexpr int64_t kSmallestInPlace = 32;  // numbers across a block, those of a pair counted twice
constexpr int64_t kPackedRows = 8;        // whose lines an 8-way cache holds at any distance

// One call. For each round of the batch, x and dy are packed into panels (blocks, batch, bs):
// whatever the feature axis, a block of dw is then the product of two panels read end to end. With
// features first, large blocks of x are read where they are if they need no conversion.
template <typename T, typename Elem, typename Out>
class MatmulDw {
 public:
  using Scale = void (*)(const Accumulator<T>* sums, int64_t size, float scale, Out* out);

  MatmulDw(const CpuMatmulDwArgs& args, const Kernels<T, Elem>& kernels, Scale scale,
           const ParallelFor& parallel_for)
      : args_(args),
        kernels_(kernels),
        scale_(scale),
        parallel_for_(parallel_for),
        index_(*args.index),
        bs_(args.block_size),
        batch_(args.batch),
        features_last_(args.feature_axis == 1),
        packs_x_(features_last_ || bs_ * kPairing < kSmallestInPlace ||
                 !(std::is_same<T, Elem>::value || (kPairing == 2 && batch_ % 2 == 0))),
        in_eights_(bs_ == 8 && kernels.multiply_eights != nullptr) {
    columns_.reserve(index_.num_blocks());
    for (int32_t k = 0; k < index_.out_blocks(); ++k) {
      columns_.insert(columns_.end(), index_.offsets()[k + 1] - index_.offsets()[k], k);
    }
  }

  void Run() const {
    if (batch_ == 0) {
      std::fill_n(static_cast<Out*>(args_.dw), index_.num_blocks() * bs_ * bs_, Out{});
      return;
    }
    const Pieces rounds(batch_, kRoundBatch, kPairing);
    const int64_t panel = PanelSize({0, std::min(batch_, kRoundBatch), true, true});
    const Scratch<Elem> x(packs_x_ ? index_.in_blocks() * panel : 0);
    const Scratch<Elem> dy(index_.out_blocks() * panel);
    // Sums outlive a round only if there are several, and dw itself cannot hold them.
    const bool keeps_sums = rounds.count > 1 && !kSumsInDw;
    const Scratch<Sum> kept_sums(keeps_sums ? index_.num_blocks() * bs_ * bs_ : 0);
    for (int64_t r = 0; r < rounds.count; ++r) {
      const Round round{rounds.Begin(r), rounds.End(r), r == 0, r + 1 == rounds.count};
      if (packs_x_) PackPanels(round, args_.x, index_.in_blocks(), x.get());
      PackPanels(round, args_.dy, index_.out_blocks(), dy.get());
      AddProducts(round, x.get(), dy.get(), keeps_sums ? kept_sums.get() : nullptr);
    }
  }

 private:
  using Sum = Accumulator<T>;
  static constexpr int64_t kPairing = std::is_same<Elem, BFloat16Pair>::value ? 2 : 1;
  static constexpr bool kSumsInDw = std::is_same<Sum, Out>::value;

  struct Round {
    int64_t depth() const { return CeilDiv(end - begin, kPairing); }

    int64_t begin, end;  // of the batch
    bool first, last;
  };

  int64_t PanelSize(const Round& round) const {
    return (in_eights_ ? CeilDiv(round.depth(), 2) * 2 : round.depth()) * bs_;
  }

  float Gate(int64_t weight_block) const {
    return args_.gate == nullptr ? 1.0f : args_.gate[weight_block];
  }

  void PairEights(Elem* rows, int64_t count) const {
    if (count % 2 == 1) std::fill_n(rows + count * bs_, bs_, Elem{});
    kernels_.pair_eights(rows, CeilDiv(count, 2));
  }
  void PackPanels(const Round& round, const void* activations, int64_t blocks, Elem* panels) const;
  void MultiplyEights(const Elem* x, const Elem* dy, const Elem* next_x, int64_t depth,
                      bool accumulate, Sum* sums) const;
  void AddProducts(const Round& round, const Elem* x, const Elem* dy, Sum* kept_sums) const;

  const CpuMatmulDwArgs& args_;
  const Kernels<T, Elem>& kernels_;
  const Scale scale_;
  const ParallelFor& parallel_for_;
  const BlockIndex& index_;
  const int64_t bs_, batch_;
  const bool features_last_, packs_x_, in_eights_;
  std::vector<int32_t> columns_;  // the output column of each entry of the index
};

template <typename T, typename Elem, typename Out>
void MatmulDw<T, Elem, Out>::PackPanels(const Round& round, const void* activations,
                                        int64_t blocks, Elem* panels) const {
  const int64_t rows = round.end - round.begin;
  const int64_t in_stride = features_last_ ? blocks * bs_ : batch_;
  // With features last, a row of a panel is but a part of a cache line, or a few: the panels of a
  // unit are filled together, few rows at a time, so that no line is fetched twice.
  const int64_t rows_at_a_time = features_last_ ? kPackedRows : rows;
  const int64_t blocks_of_unit = std::max<int64_t>(kPackedFeatures / bs_, 1);
  const auto pack_unit = [&](int64_t first_block, int64_t last_block) {
    for (int64_t row = 0; row < rows; row += rows_at_a_time) {
      for (int64_t block = first_block; block < last_block; ++block) {
        const int64_t n = round.begin + row, feature = block * bs_;
        Pack<T, Elem> pack;
        pack.in = static_cast<const T*>(activations) +
                  (features_last_ ? n * in_stride + feature : feature * in_stride + n);
        pack.in_stride = in_stride;
        pack.transposed = !features_last_;
        pack.out = panels + block * PanelSize(round) + row / kPairing * bs_;
        pack.out_stride = bs_;
        pack.rows = std::min(rows_at_a_time, rows - row);
        pack.columns = bs_;
        kernels_.pack(pack);
        if (in_eights_) PairEights(pack.out, CeilDiv(pack.rows, kPairing));
      }
    }
  };
  parallel_for_(CeilDiv(blocks, blocks_of_unit), rows * blocks_of_unit * bs_,
                [&](int64_t first, int64_t last) {
                  for (int64_t unit = first; unit < last; ++unit) {
                    pack_unit(unit * blocks_of_unit, std::min((unit + 1) * blocks_of_unit, blocks));
                  }
                });
}

template <typename T, typename Elem, typename Out>
void MatmulDw<T, Elem, Out>::MultiplyEights(const Elem* x, const Elem* dy,
                                            const Elem* next_x, int64_t depth, bool accumulate,
                                            Sum* sums) const {
  ProductOfEights<Elem> product;
  product.c = sums;
  // Two chains at a time, as steps of depth go in twos.
  for (int64_t d = 0; d < depth; d += kDepthOfChain) {
    product.a = x + 16 * d;
    product.b = dy + 16 * d;
    product.next_a = next_x + 16 * d;
    product.depth = std::min(kDepthOfChain, depth - d);
    product.accumulate = accumulate || d > 0;
    kernels_.multiply_eights(product);
  }
}

// dw[b] += x[c]^T dy[k] over a round of the batch; the last one scales by the gate and rounds.
template <typename T, typename Elem, typename Out>
void MatmulDw<T, Elem, Out>::AddProducts(const Round& round, const Elem* x, const Elem* dy,
                                         Sum* kept_sums) const {
  const int64_t block_size = bs_ * bs_;
  const int64_t panel = PanelSize(round);
  const int64_t row = batch_ / kPairing;  // of x in place
  if (!packs_x_) x = static_cast<const Elem*>(args_.x) + round.begin / kPairing;
  parallel_for_(index_.num_blocks(), block_size * (round.depth() + 8) / 16,
                [&](int64_t first, int64_t last) {
    const Scratch<Sum> scratch(block_size);
    for (int64_t e = first; e < last; ++e) {
      const BlockIndex::Entry& entry = index_.entries()[e];
      Out* dw = static_cast<Out*>(args_.dw) + entry.weight_block * block_size;
      const float gate = Gate(entry.weight_block);
      if (gate == 0.0f) {
        std::fill(dw, dw + block_size, Out{});
        continue;
      }
      Sum* sums = kept_sums != nullptr ? kept_sums + entry.weight_block * block_size
                                       : scratch.get();
      if constexpr (kSumsInDw) sums = dw;
      if (in_eights_) {
        const int64_t next = index_.entries()[std::min(e + 1, last - 1)].in_block;
        MultiplyEights(x + entry.in_block * panel, dy + columns_[e] * panel, x + next * panel,
                       panel / 16, !round.first, sums);
      } else {
        const typename Product<Elem>::Part part{
            entry.in_block * (packs_x_ ? panel : bs_ * row), columns_[e] * panel, nullptr};
        Product<Elem> product;
        product.parts = &part;
        product.num_parts = 1;
        product.depth = round.depth();
        product.a = x;
        product.a_row_stride = packs_x_ ? 1 : row;
        product.a_depth_stride = packs_x_ ? bs_ : 1;
        product.b = dy;
        product.b_stride = bs_;
        product.c = sums;
        product.c_stride = bs_;
        product.rows = bs_;
        product.columns = bs_;
        product.wide = true;
        product.accumulate = !round.first;
        kernels_.multiply(product);
      }
      if (round.last && (!kSumsInDw || gate != 1.0f)) scale_(sums, block_size, gate, dw);
    }
  });
}

template <typename T, typename Elem>
void RunMatmulDw(const CpuMatmulDwArgs& args, const Kernels<T, Elem>& kernels,
                 const ParallelFor& parallel_for) {
  if (args.out_dtype == args.dtype) {
    MatmulDw<T, Elem, T>(args, kernels, kernels.scale, parallel_for).Run();
  } else {
    MatmulDw<T, Elem, float>(args, kernels, kernels.scale_to_float, parallel_for).Run();
  }
}

}  // namespace

void CpuMatmulDw(const CpuMatmulDwArgs& args, const ParallelFor& parallel_for) {
  const AllKernels& kernels = CurrentKernels();
  switch (args.dtype) {
    case DType::kFloat32:
      return RunMatmulDw(args, kernels.float32, parallel_for);
    case DType::kFloat16:
      return RunMatmulDw(args, kernels.float16, parallel_for);
    case DType::kBFloat16:
      if (kernels.bfloat16_pairs.multiply != nullptr) {
        return RunMatmulDw(args, kernels.bfloat16_pairs, parallel_for);
      }
      return RunMatmulDw(args, kernels.bfloat16, parallel_for);
    case DType::kFloat64:
      return RunMatmulDw(args, kernels.float64, parallel_for);
  }
}

}  // namespace bsparse
