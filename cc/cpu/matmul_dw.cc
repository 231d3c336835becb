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
constexpr int64_t kPackedFeatures = 128;        // of a unit of packing
constexpr int64_t kLongestDirectStride = 2048;  // bytes; for blocks that are not large
constexpr int64_t kLargeBlock = 32;             // numbers across, those of a pair counted twice
constexpr int64_t kWholeLines = 128;            // bytes

// One call. A block of dw is the product of two panels (batch, bs), of a block of x and one of dy:
//  - with features first, x is read where it is if it needs no conversion, and otherwise packed
//    before all products, as each of its panels serves several columns of blocks;
//  - dy is packed a panel at a time by the thread that is about to use it, and so stays close to
//    it; but narrow panels of features last, which share cache lines, before all products.
template <typename T, typename Elem, typename Out>
class MatmulDw {
 public:
  using Scale = void (*)(const Accumulator<T>* sums, int64_t size, float scale, const Out* addend,
                         Out* out);

  MatmulDw(const CpuMatmulDwArgs& args, const Kernels<T, Elem>& kernels, Scale scale,
           const ParallelFor& parallel_for)
      : args_(args),
        kernels_(kernels),
        scale_(scale),
        parallel_for_(parallel_for),
        index_(*args.index),
        bs_(args.block_size),
        features_last_(args.feature_axis == 1),
        in_eights_(bs_ == 8 && kernels.multiply_eights != nullptr),
        packs_x_(PacksX()),
        sums_in_dw_(std::is_same<Sum, Out>::value && args.addend == nullptr),
        packs_dy_first_(features_last_ &&
                        bs_ * static_cast<int64_t>(sizeof(T)) < kWholeLines) {
    columns_.reserve(index_.num_blocks());
    for (int32_t k = 0; k < index_.out_blocks(); ++k) {
      columns_.insert(columns_.end(), index_.offsets()[k + 1] - index_.offsets()[k], k);
    }
  }

  void Run() const {
    const std::vector<Round> rounds = Rounds();
    if (rounds.empty()) {
      for (int64_t b = 0; b < index_.num_blocks(); ++b) LeaveAddend(b);
      return;
    }
    int64_t panel = 0;
    for (const Round& round : rounds) panel = std::max(panel, PanelSize(round));
    const Scratch<Elem> x(packs_x_ ? index_.in_blocks() * panel : 0);
    const Scratch<Elem> dy(packs_dy_first_ ? index_.out_blocks() * panel : 0);
    // Sums outlive a round only if there are several, and dw itself cannot hold them.
    const bool keeps_sums = rounds.size() > 1 && !sums_in_dw_;
    const Scratch<Sum> kept_sums(keeps_sums ? index_.num_blocks() * bs_ * bs_ : 0);
    for (const Round& round : rounds) {
      if (packs_x_) PackPanels(round, round.pair->x, index_.in_blocks(), x.get());
      if (packs_dy_first_) PackPanels(round, round.pair->dy, index_.out_blocks(), dy.get());
      AddProducts(round, x.get(), dy.get(), keeps_sums ? kept_sums.get() : nullptr);
    }
  }

 private:
  using Sum = Accumulator<T>;
  static constexpr int64_t kPairing = std::is_same<Elem, BFloat16Pair>::value ? 2 : 1;

  struct Round {
    int64_t depth() const { return CeilDiv(end - begin, kPairing); }

    const CpuDwPair* pair;
    int64_t begin, end;  // of the pair's batch
    bool first, last;    // of all
  };

  std::vector<Round> Rounds() const {
    std::vector<Round> rounds;
    for (const CpuDwPair& pair : args_.pairs) {
      const Pieces pieces(pair.batch, kRoundBatch, 2 * kPairing);
      for (int64_t r = 0; pair.batch > 0 && r < pieces.count; ++r) {
        rounds.push_back({&pair, pieces.Begin(r), pieces.End(r), rounds.empty(), false});
      }
    }
    if (!rounds.empty()) rounds.back().last = true;
    return rounds;
  }

  int64_t PanelSize(const Round& round) const {
    return (in_eights_ ? CeilDiv(round.depth(), 2) * 2 : round.depth()) * bs_;
  }

  float Gate(int64_t weight_block) const {
    return args_.gate == nullptr ? 1.0f : args_.gate[weight_block];
  }

  const Out* Addend(int64_t weight_block) const {
    return args_.addend == nullptr
               ? nullptr
               : static_cast<const Out*>(args_.addend) + weight_block * bs_ * bs_;
  }

  // dw of a block to whose sum nothing is added.
  void LeaveAddend(int64_t weight_block) const {
    Out* dw = static_cast<Out*>(args_.dw) + weight_block * bs_ * bs_;
    const Out* addend = Addend(weight_block);
    if (addend == nullptr) {
      std::fill_n(dw, bs_ * bs_, Out{});
    } else if (addend != dw) {
      std::copy_n(addend, bs_ * bs_, dw);
    }
  }

  bool PacksX() const {
    if (features_last_ || !(std::is_same<T, Elem>::value || kPairing == 2)) return true;
    return std::any_of(args_.pairs.begin(), args_.pairs.end(), [this](const CpuDwPair& pair) {
      if (pair.batch % (in_eights_ ? 2 * kPairing : kPairing) != 0) return true;
      // Rows far apart fall on few sets of the caches.
      return bs_ * kPairing < kLargeBlock &&
             pair.batch * static_cast<int64_t>(sizeof(T)) > kLongestDirectStride;
    });
  }

  void Pack(const Round& round, const void* activations, int64_t features, int64_t first_block,
            int64_t blocks, Elem* panels) const;
  void PackPanels(const Round& round, const void* activations, int64_t blocks, Elem* panels) const;
  void Multiply(const Round& round, const Elem* x, const Elem* next_x, const Elem* dy,
                Sum* sums) const;
  void MultiplyEights(const Round& round, const Elem* x, const Elem* next_x, const Elem* dy,
                      Sum* sums) const;
  void AddProducts(const Round& round, const Elem* x, const Elem* dy, Sum* kept_sums) const;

  const CpuMatmulDwArgs& args_;
  const Kernels<T, Elem>& kernels_;
  const Scale scale_;
  const ParallelFor& parallel_for_;
  const BlockIndex& index_;
  const int64_t bs_;
  const bool features_last_, in_eights_, packs_x_;
  const bool sums_in_dw_;  // dw can hold them, and nothing else is to be read there
  const bool packs_dy_first_;
  std::vector<int32_t> columns_;  // the output column of each entry of the index
};

// Packs neighbouring blocks of x or dy, which have `features` in all.
template <typename T, typename Elem, typename Out>
void MatmulDw<T, Elem, Out>::Pack(const Round& round, const void* activations, int64_t features,
                                  int64_t first_block, int64_t blocks, Elem* panels) const {
  bsparse::Pack<T, Elem> pack;
  const int64_t feature = first_block * bs_;
  pack.in_stride = features_last_ ? features : round.pair->batch;
  pack.in = static_cast<const T*>(activations) + (features_last_
                                                      ? round.begin * features + feature
                                                      : feature * round.pair->batch + round.begin);
  pack.transposed = !features_last_;
  pack.in_eights = in_eights_;
  pack.out = panels;
  pack.out_stride = bs_;
  pack.rows = round.end - round.begin;
  pack.columns = bs_;
  pack.blocks = blocks;
  pack.out_block_stride = PanelSize(round);
  kernels_.pack(pack);
}

template <typename T, typename Elem, typename Out>
void MatmulDw<T, Elem, Out>::PackPanels(const Round& round, const void* activations,
                                        int64_t blocks, Elem* panels) const {
  const int64_t blocks_of_unit = std::max<int64_t>(kPackedFeatures / bs_, 1);
  parallel_for_(CeilDiv(blocks, blocks_of_unit), round.depth() * blocks_of_unit * bs_ / 2,
                [&](int64_t first, int64_t last) {
                  const int64_t begin = first * blocks_of_unit;
                  const int64_t end = std::min(last * blocks_of_unit, blocks);
                  Pack(round, activations, blocks * bs_, begin, end - begin,
                       panels + begin * PanelSize(round));
                });
}

template <typename T, typename Elem, typename Out>
void MatmulDw<T, Elem, Out>::Multiply(const Round& round, const Elem* x, const Elem* next_x,
                                      const Elem* dy, Sum* sums) const {
  const typename Product<Elem>::Part part{0, 0, reinterpret_cast<const char*>(next_x)};
  Product<Elem> product;
  product.parts = &part;
  product.num_parts = 1;
  product.depth = round.depth();
  product.ahead_bytes = round.depth() * bs_ * sizeof(Elem);
  product.a = x;
  product.a_row_stride = packs_x_ ? 1 : round.pair->batch / kPairing;
  product.a_depth_stride = packs_x_ ? bs_ : 1;
  product.b = dy;
  product.b_stride = bs_;
  product.c = sums;
  product.c_stride = bs_;
  product.prefetches_c = true;
  product.rows = bs_;
  product.columns = bs_;
  product.wide = true;
  product.accumulate = !round.first;
  kernels_.multiply(product);
}

template <typename T, typename Elem, typename Out>
void MatmulDw<T, Elem, Out>::MultiplyEights(const Round& round, const Elem* x, const Elem* next_x,
                                            const Elem* dy, Sum* sums) const {
  ProductOfEights<Elem> product;
  product.a_row_stride = packs_x_ ? 1 : round.pair->batch / kPairing / 2;
  product.a_depth_stride = packs_x_ ? 8 : 1;
  product.c = sums;
  // Two chains at a time, as steps of depth go in twos.
  const int64_t depth = CeilDiv(round.depth(), 2);
  for (int64_t d = 0; d < depth; d += kDepthOfChain) {
    product.a = x + 2 * d * product.a_depth_stride;
    product.b = dy + 16 * d;
    product.next_a = next_x + 16 * d;
    product.depth = std::min(kDepthOfChain, depth - d);
    product.accumulate = !round.first || d > 0;
    kernels_.multiply_eights(product);
  }
}

// dw[b] += x[c]^T dy[k] over a round of the batch; the last one scales by the gate and rounds.
template <typename T, typename Elem, typename Out>
void MatmulDw<T, Elem, Out>::AddProducts(const Round& round, const Elem* packed_x,
                                         const Elem* packed_dy, Sum* kept_sums) const {
  const int64_t block_size = bs_ * bs_;
  const int64_t panel = PanelSize(round);
  const CpuDwPair& pair = *round.pair;
  const Elem* x = packs_x_ ? packed_x : static_cast<const Elem*>(pair.x) + round.begin / kPairing;
  const int64_t x_stride = packs_x_ ? panel : bs_ * (pair.batch / kPairing);
  parallel_for_(index_.num_blocks(), block_size * (round.depth() + 8) / 16,
                [&](int64_t first, int64_t last) {
    const Scratch<Sum> scratch(block_size);
    const Scratch<Elem> panel_of_column(packs_dy_first_ ? 0 : panel);
    int32_t packed_column = -1;
    for (int64_t e = first; e < last; ++e) {
      const BlockIndex::Entry& entry = index_.entries()[e];
      Out* dw = static_cast<Out*>(args_.dw) + entry.weight_block * block_size;
      const float gate = Gate(entry.weight_block);
      if (gate == 0.0f) {
        if (round.last) LeaveAddend(entry.weight_block);
        continue;
      }
      Sum* sums = kept_sums != nullptr ? kept_sums + entry.weight_block * block_size
                                       : scratch.get();
      if constexpr (std::is_same<Sum, Out>::value) {
        if (sums_in_dw_) sums = dw;
      }
      const int32_t column = columns_[e];
      const Elem* dy = packed_dy + column * panel;
      if (!packs_dy_first_) {
        if (column != packed_column) {
          Pack(round, pair.dy, index_.out_blocks() * bs_, column, 1, panel_of_column.get());
        }
        packed_column = column;
        dy = panel_of_column.get();
      }
      const int64_t next = index_.entries()[std::min(e + 1, last - 1)].in_block;
      if (in_eights_) {
        MultiplyEights(round, x + entry.in_block * x_stride, x + next * x_stride, dy, sums);
      } else {
        Multiply(round, x + entry.in_block * x_stride, x + next * x_stride, dy, sums);
      }
      if (round.last && (!sums_in_dw_ || gate != 1.0f)) {
        scale_(sums, block_size, gate, Addend(entry.weight_block), dw);
      }
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
