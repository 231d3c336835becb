#include "cc/cpu/matmul.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "cc/cpu/dtype.h"
#include "cc/cpu/kernels.h"
#include "cc/cpu/partition.h"
#include "cc/cpu/scratch.h"

namespace bsparse {
namespace {

// The activations that a unit of work reads take at most about this much. They need not fit a
// core's own cache, as they are prefetched, and the weights are read once for each panel.
constexpr int64_t kPanelBytes = 1536 << 10;
constexpr int64_t kSmallestPanel = 48;  // batch rows
constexpr int64_t kLargestPanel = 192;

constexpr int64_t kPackedBytes = 16 << 20;      // the most activations packed at a time
constexpr int64_t kPackedFeatures = 256;        // of a unit of packing
constexpr int64_t kLongestDirectStride = 2048;  // bytes
constexpr int kLargestPackedBlock = 32;         // of tall products
constexpr int kLargestNarrowBlock = 16;         // one vector or less
constexpr int64_t kWideStep = 16;               // wide products take multiples of this batch
constexpr int64_t kTallStep = 24;               // a multiple of the rows of every tall tile
constexpr int64_t kCyclesOfUnit = 40000;        // about ten microseconds
constexpr int64_t kProductsOfCycle = 16;

// Below this density chains are half as long: those of a dense product then hold mostly zeros, so
// that its error is smaller.
constexpr double kDensityOfLongChains = 0.5;

constexpr int64_t kOutputsOfGroup = 32;         // a cache line of 16-bit numbers

bool IsZeroOrOne(float gate) { return gate == 0.0f || gate == 1.0f; }

// One call. Its batch becomes the columns of Products ("wide") or the rows ("tall"):
//  - features first: wide, as vectors of batch lie in memory;
//  - features last: tall, as vectors of outputs lie in w. But small blocks are too narrow for that,
//    and go wide, their activations transposed;
//  - what does not fill the vectors of a wide product goes tall, transposed.
template <typename T, typename Elem>
class Matmul {
 public:
  Matmul(const CpuMatmulArgs& args, const Kernels<T, Elem>& kernels,
         const ParallelFor& parallel_for)
      : args_(args),
        kernels_(kernels),
        parallel_for_(parallel_for),
        index_(*args.index),
        bs_(args.block_size),
        in_(index_.in_blocks() * bs_),
        out_(index_.out_blocks() * bs_),
        batch_(args.batch),
        features_last_(args.feature_axis == 1 || args.batch == 1) {
    int64_t counted = index_.num_blocks();
    if (args.gate != nullptr) {
      const float* const end = args.gate + index_.num_blocks();
      scales_ = !std::all_of(args.gate, end, IsZeroOrOne);
      counted -= std::count(args.gate, end, 0.0f);
    }
    const double all = static_cast<double>(index_.in_blocks()) * index_.out_blocks();
    depth_of_chain_ = counted < kDensityOfLongChains * all ? kDepthOfChain / 2 : kDepthOfChain;
  }

  void Run() const {
    const bool goes_wide =
        !features_last_ || (bs_ <= kLargestNarrowBlock && sizeof(Sum) == sizeof(float));
    const int64_t wide = goes_wide ? batch_ / kWideStep * kWideStep : 0;
    if (wide > 0) RunSection({0, wide, true});
    if (wide < batch_) RunSection({wide, batch_, false});
  }

 private:
  using Sum = Accumulator<T>;
  using Part = typename Product<Elem>::Part;
  static constexpr bool kPairs = std::is_same<Elem, BFloat16Pair>::value;
  static constexpr bool kSameType = std::is_same<T, Elem>::value;
  static constexpr int64_t kPairing = kPairs ? 2 : 1;  // numbers in an Elem

  // Batch rows [begin, end).
  struct Section {
    int64_t size() const { return end - begin; }

    int64_t begin, end;
    bool wide;
  };

  // Activations of a panel as products read them: the distance between blocks of features, and
  // between batch rows (tall) or features (wide).
  struct Operand {
    const Elem* data;
    int64_t block_stride, stride;
  };

  // What a thread works with.
  struct Workspace {
    Workspace(int64_t weights, int64_t sums) : weights(weights), sums(sums), finish(sums) {}

    std::vector<Part> parts;      // of a run of columns: the blocks that count
    std::vector<int64_t> ends;    // of each column among them
    std::vector<float> gates;     // of each, if there are any
    Scratch<Elem> weights;
    Scratch<Sum> sums, finish;
  };

  // Whether the weights of a section must be rewritten first, and the activations copied.
  bool PreparesWeights(bool wide) const {
    return scales_ || !kSameType || args_.weight_dtype != args_.dtype ||
           (!wide && args_.transpose);
  }
  bool PacksActivations(bool wide) const {
    if (wide) {
      // With a long stride, rows of x fall on few sets of the caches and on a page each: that costs
      // more than a copy.
      return features_last_ || !kSameType ||
             batch_ * static_cast<int64_t>(sizeof(T)) >= kLongestDirectStride;
    }
    // For the same reason the many rows of small blocks are copied, unless they are few.
    return !features_last_ || !(kSameType || kPairs) ||
           (bs_ <= kLargestPackedBlock && batch_ >= kTallStep);
  }

  const T* X(int64_t n, int64_t feature) const {
    const T* x = static_cast<const T*>(args_.x);
    return features_last_ ? x + n * in_ + feature : x + feature * batch_ + n;
  }
  T* Y(int64_t n, int64_t feature) const {
    T* y = static_cast<T*>(args_.y);
    return features_last_ ? y + n * out_ + feature : y + feature * batch_ + n;
  }

  int64_t PartsOfChain() const { return depth_of_chain_ * kPairing / bs_; }
  int64_t BytesOfBlock() const {
    return bs_ * bs_ * (args_.weight_dtype == args_.dtype ? sizeof(T) : sizeof(float));
  }

  void RunSection(const Section& section) const;
  void PackPanel(const Section& panel, int64_t feature, int64_t features, Elem* out) const;
  Operand OperandOf(const Section& panel, const Elem* packed) const;
  void ListParts(bool wide, const Operand& x, int32_t first_column, int32_t last_column,
                 Workspace* workspace) const;
  void RunPanel(const Section& panel, const Operand& x, int32_t first_column, int32_t last_column,
                Workspace* workspace) const;
  void RunSlices(const Section& panel, Operand x, int64_t first, int64_t last,
                 int32_t first_column, int32_t last_column, Workspace* workspace) const;
  void MultiplyColumn(const Section& panel, const Operand& x, int64_t first, int64_t last,
                      Workspace* workspace, Sum* c, int64_t c_stride, bool c_in_y) const;
  void PrepareChain(bool wide, int64_t first, int64_t count, Workspace* workspace) const;

  const CpuMatmulArgs& args_;
  const Kernels<T, Elem>& kernels_;
  const ParallelFor& parallel_for_;
  const BlockIndex& index_;
  const int64_t bs_, in_, out_, batch_;
  const bool features_last_;
  bool scales_ = false;
  int64_t depth_of_chain_;
};

template <typename T, typename Elem>
void Matmul<T, Elem>::RunSection(const Section& section) const {
  const bool packs = PacksActivations(section.wide), prepares = PreparesWeights(section.wide);
  const int64_t in_elems = in_ / kPairing;
  const int64_t row_bytes = std::max<int64_t>(in_elems * sizeof(Elem), 1);
  const int64_t largest_panel =
      std::clamp(kPanelBytes / row_bytes / kSmallestPanel * kSmallestPanel, kSmallestPanel,
                 kLargestPanel);
  const int64_t step = section.wide ? kWideStep : kTallStep;
  const int64_t largest_round =
      packs ? std::max(kPackedBytes / row_bytes / kSmallestPanel * kSmallestPanel, largest_panel)
            : CeilDiv(section.size(), step) * step;
  const Pieces rounds(section.size(), largest_round, step);

  const int64_t panel_rows = std::min(largest_panel, rounds.End(0));
  // Per weight: its products, or at small batches the time to fetch it.
  const int64_t cycles_of_block = bs_ * bs_ * (panel_rows + 8) / kProductsOfCycle;
  const std::vector<int32_t> runs =
      RunsOfColumns(index_, std::max<int64_t>(kCyclesOfUnit / cycles_of_block, 1));
  const int64_t num_runs = static_cast<int64_t>(runs.size()) - 1;
  const int64_t cycles_of_run = cycles_of_block * (1 + index_.num_blocks() / num_runs);

  for (int64_t r = 0; r < rounds.count; ++r) {
    const int64_t begin = section.begin + rounds.Begin(r);
    const Pieces panels(rounds.End(r) - rounds.Begin(r), largest_panel, step);
    const auto panel_at = [&](int64_t i) {
      return Section{begin + panels.Begin(i), begin + panels.End(i), section.wide};
    };
    const Scratch<Elem> packed(packs ? panels.total * in_elems : 0);
    const auto packed_at = [&](int64_t i) { return packed.get() + panels.Begin(i) * in_elems; };
    if (packs) {
      const int64_t pieces = CeilDiv(in_, kPackedFeatures);
      parallel_for_(panels.count * pieces, panel_rows * kPackedFeatures,
                    [&](int64_t first, int64_t last) {
                      for (int64_t u = first; u < last; ++u) {
                        const int64_t feature = u % pieces * kPackedFeatures;
                        PackPanel(panel_at(u / pieces), feature,
                                  std::min(kPackedFeatures, in_ - feature), packed_at(u / pieces));
                      }
                    });
    }
    // A unit is a run of columns times a slice of a panel. Whole panels are quicker, and a thread
    // takes as many as it has units for; but a column of large blocks is much work for a last unit.
    const int64_t slices =
        CeilDiv(CeilDiv(panels.units, panels.count) * panels.multiple, kSmallestPanel);
    const int64_t units_of_panel = num_runs * slices;
    parallel_for_(panels.count * units_of_panel, cycles_of_run / slices,
                  [&](int64_t first, int64_t last) {
      Workspace workspace(prepares ? depth_of_chain_ * bs_ : 0,
                          largest_panel * std::max(bs_, kOutputsOfGroup));
      while (first < last) {
        const int64_t p = first / units_of_panel;
        const int64_t run = first % units_of_panel / slices, slice = first % slices;
        const bool whole = slice == 0 && last - first >= slices;
        const int64_t num_slices = std::min(last - first, slices - slice);
        const int64_t taken_runs = whole ? std::min((last - first) / slices, num_runs - run) : 1;
        RunSlices(panel_at(p), OperandOf(panel_at(p), packs ? packed_at(p) : nullptr), slice,
                  slice + num_slices, runs[run], runs[run + taken_runs], &workspace);
        first += taken_runs * num_slices;
      }
    });
  }
}

// Packs [feature, feature + features) of a panel: (in, batch rows) if wide; if tall, (batch rows,
// bs) for one block of features after the other.
template <typename T, typename Elem>
void Matmul<T, Elem>::PackPanel(const Section& panel, int64_t feature, int64_t features,
                                Elem* out) const {
  Pack<T, Elem> pack;
  pack.in_stride = features_last_ ? in_ : batch_;
  pack.transposed = panel.wide == features_last_;
  if (panel.wide) {
    pack.in = X(panel.begin, feature);
    pack.rows = features;
    pack.columns = pack.out_stride = panel.size();
    pack.out = out + feature / kPairing * pack.columns;
    return kernels_.pack(pack);
  }
  if (kPairs && !features_last_) {
    T* numbers = reinterpret_cast<T*>(out);
    for (int64_t f = feature; f < feature + features; ++f) {
      T* column = numbers + f / bs_ * bs_ * panel.size() + f % bs_;
      for (int64_t n = 0; n < panel.size(); ++n) column[n * bs_] = *X(panel.begin + n, f);
    }
    return;
  }
  pack.pairs_adjacent = kPairs;
  pack.in = X(panel.begin, feature);
  pack.rows = panel.size();
  pack.columns = bs_;
  pack.blocks = features / bs_;
  pack.out = out + feature * panel.size() / kPairing;
  pack.out_stride = bs_ / kPairing;
  pack.out_block_stride = panel.size() * bs_ / kPairing;
  kernels_.pack(pack);
}

template <typename T, typename Elem>
typename Matmul<T, Elem>::Operand Matmul<T, Elem>::OperandOf(const Section& panel,
                                                             const Elem* packed) const {
  const int64_t block = bs_ / kPairing;
  const Elem* data = packed != nullptr ? packed : reinterpret_cast<const Elem*>(X(panel.begin, 0));
  if (panel.wide) {
    const int64_t stride = packed != nullptr ? panel.size() : batch_;
    return {data, block * stride, stride};
  }
  if (packed != nullptr) return {data, block * panel.size(), block};
  return {data, block, in_ / kPairing};
}

// Lists the blocks of some columns that count.
template <typename T, typename Elem>
void Matmul<T, Elem>::ListParts(bool wide, const Operand& x, int32_t first_column,
                                int32_t last_column, Workspace* workspace) const {
  const int64_t bytes = BytesOfBlock(), elems = bs_ * bs_;
  const int64_t distance = PartsOfChain();
  const auto& offsets = index_.offsets();
  const int64_t begin = offsets[first_column], end = offsets[last_column];
  std::vector<Part>& parts = workspace->parts;
  parts.resize(end - begin + 1);
  workspace->ends.clear();
  workspace->gates.clear();
  int64_t count = 0;
  const BlockIndex::Entry* entry = index_.entries().data() + begin;
  const char* w = static_cast<const char*>(args_.w);
  for (int32_t column = first_column; column < last_column; ++column) {
    for (const auto* last = index_.entries().data() + offsets[column + 1]; entry != last; ++entry) {
      if (args_.gate != nullptr) {
        const float gate = args_.gate[entry->weight_block];
        if (gate == 0.0f) continue;
        workspace->gates.push_back(gate);
      }
      const int64_t weights = entry->weight_block * elems;
      const int64_t activations = entry->in_block * x.block_stride;
      Part& part = parts[count];
      part.a = wide ? weights : activations;
      part.b = wide ? activations : weights;
      parts[std::max<int64_t>(count - distance, 0)].ahead = w + entry->weight_block * bytes;
      ++count;
    }
    workspace->ends.push_back(count);
  }
  for (int64_t i = std::max<int64_t>(count - distance, 0); i < count; ++i) parts[i].ahead = w;
  parts[count] = Part{0, 0, w};
}

// Rewrites the weights of some parts.
template <typename T, typename Elem>
void Matmul<T, Elem>::PrepareChain(bool wide, int64_t first, int64_t count,
                                   Workspace* workspace) const {
  const int64_t depth = bs_ / kPairing;
  const int64_t width = BytesOfBlock() / (bs_ * bs_);
  WeightBlock block;
  block.block_size = args_.block_size;
  block.float32_weights = args_.weight_dtype != args_.dtype;
  block.transposed = args_.transpose;
  for (int64_t i = 0; i < count; ++i) {
    Part& part = workspace->parts[first + i];
    int64_t& weights = wide ? part.a : part.b;
    block.w = static_cast<const char*>(args_.w) + weights * width;
    block.gate = args_.gate != nullptr ? workspace->gates[first + i] : 1.0f;
    weights = i * depth * bs_;
    kernels_.prepare_weights(block, workspace->weights.get() + weights);
  }
}

// c = the sum over parts [first, last): (bs, panel) if wide, else (panel, bs).
template <typename T, typename Elem>
void Matmul<T, Elem>::MultiplyColumn(const Section& panel, const Operand& x, int64_t first,
                                     int64_t last, Workspace* workspace, Sum* c,
                                     int64_t c_stride, bool c_in_y) const {
  const bool prepares = PreparesWeights(panel.wide);
  const int64_t depth = bs_ / kPairing;
  const Elem* weights = prepares ? workspace->weights.get() : static_cast<const Elem*>(args_.w);
  Product<Elem> product;
  product.depth = depth;
  product.wide = panel.wide;
  product.a = panel.wide ? weights : x.data;
  product.b = panel.wide ? x.data : weights;
  product.c = c;
  product.c_stride = c_stride;
  product.prefetches_c = c_in_y;
  product.rows = panel.wide ? bs_ : panel.size();
  product.columns = panel.wide ? panel.size() : bs_;
  product.ahead_bytes = BytesOfBlock();
  if (!panel.wide) {
    product.a_row_stride = x.stride;
    product.b_stride = bs_;
  } else {
    product.b_stride = x.stride;
    product.prefetches_b = true;
    const bool reads_transposed = args_.transpose && !prepares;
    product.a_row_stride = reads_transposed ? bs_ : 1;
    product.a_depth_stride = reads_transposed ? 1 : bs_;
  }
  do {  // once even without parts, to write zeros
    const int64_t count = std::min(PartsOfChain(), last - first);
    if (prepares) PrepareChain(panel.wide, first, count, workspace);
    product.parts = workspace->parts.data() + first;
    product.num_parts = count;
    kernels_.multiply(product);
    product.accumulate = true;
    product.prefetches_c = false;
    first += count;
  } while (first < last);
}

template <typename T, typename Elem>
void Matmul<T, Elem>::RunPanel(const Section& panel, const Operand& x, int32_t first_column,
                               int32_t last_column, Workspace* workspace) const {
  const bool stores_transposed = panel.wide == features_last_;
  // A residual may be in y's memory, and is then still needed.
  const bool sums_in_y = std::is_same<T, Sum>::value && args_.bias == nullptr &&
                         args_.activation == Activation::kNone && args_.residual == nullptr &&
                         !stores_transposed;
  const int64_t y_stride = features_last_ ? out_ : batch_;
  // Columns of 8 outputs that are stored transposed are stored together, so that cache lines of y
  // are written as a whole.
  ListParts(panel.wide, x, first_column, last_column, workspace);
  int64_t first = 0;
  const int32_t group = panel.wide && stores_transposed ? kOutputsOfGroup / bs_ : 1;
  for (int32_t column = first_column; column < last_column; column += group) {
    const int32_t columns = std::min(group, last_column - column);
    T* y = Y(panel.begin, column * bs_);
    Sum* sums = workspace->sums.get();
    int64_t stride = panel.wide ? panel.size() : bs_;
    if constexpr (std::is_same<T, Sum>::value) {
      if (sums_in_y) {
        sums = y;
        stride = y_stride;
      }
    }
    for (int32_t i = 0; i < columns; ++i) {
      const int64_t last = workspace->ends[column + i - first_column];
      MultiplyColumn(panel, x, first, last, workspace, sums + i * bs_ * stride, stride, sums_in_y);
      first = last;
    }
    if (sums_in_y) continue;

    Finish<T> finish;
    finish.sums = workspace->sums.get();
    finish.rows = panel.wide ? columns * bs_ : panel.size();
    finish.columns = panel.wide ? panel.size() : bs_;
    if (args_.bias != nullptr) {
      const T* bias = static_cast<const T*>(args_.bias) + column * bs_;
      (panel.wide ? finish.row_bias : finish.column_bias) = bias;
    }
    finish.activation = args_.activation;
    if (args_.residual != nullptr) {
      finish.residual = static_cast<const T*>(args_.residual) + (y - static_cast<T*>(args_.y));
    }
    finish.workspace = workspace->finish.get();
    finish.y = y;
    finish.y_stride = y_stride;
    finish.transposed = stores_transposed;
    kernels_.finish(finish);
  }
}

// RunPanel for slices [first, last) of a panel, as far as it has them.
template <typename T, typename Elem>
void Matmul<T, Elem>::RunSlices(const Section& panel, Operand x, int64_t first, int64_t last,
                                int32_t first_column, int32_t last_column,
                                Workspace* workspace) const {
  const int64_t begin = first * kSmallestPanel;
  const int64_t end = std::min(last * kSmallestPanel, panel.size());
  if (begin >= end) return;
  x.data += panel.wide ? begin : begin * x.stride;
  RunPanel({panel.begin + begin, panel.begin + end, panel.wide}, x, first_column, last_column,
           workspace);
}

template <typename T, typename Elem>
void RunMatmul(const CpuMatmulArgs& args, const Kernels<T, Elem>& kernels,
               const ParallelFor& parallel_for) {
  Matmul<T, Elem>(args, kernels, parallel_for).Run();
}

}  // namespace

void CpuMatmul(const CpuMatmulArgs& args, const ParallelFor& parallel_for) {
  if (args.batch == 0 || args.index->out_blocks() == 0) return;
  const AllKernels& kernels = CurrentKernels();
  switch (args.dtype) {
    case DType::kFloat32:
      return RunMatmul(args, kernels.float32, parallel_for);
    case DType::kFloat16:
      return RunMatmul(args, kernels.float16, parallel_for);
    case DType::kBFloat16:
      if (kernels.bfloat16_pairs.multiply != nullptr) {
        return RunMatmul(args, kernels.bfloat16_pairs, parallel_for);
      }
      return RunMatmul(args, kernels.bfloat16, parallel_for);
    case DType::kFloat64:
      return RunMatmul(args, kernels.float64, parallel_for);
  }
}

const char* CpuTargetName() { return CurrentKernels().target; }

}  // namespace bsparse
