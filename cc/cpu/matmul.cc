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

// The activations that a unit of work reads take about this much of a core's own (second-level)
// cache, beside the weights. Twice that where each panel makes the weights dearer: they are
// rewritten for it, or (transposed) fetched out of order.
constexpr int64_t kPanelBytes = 384 << 10;
constexpr int64_t kSmallestPanel = 48;  // batch rows; the best tile of a wide product
constexpr int64_t kLargestPanel = 192;

constexpr int64_t kPackedBytes = 16 << 20;      // the most activations packed at a time
constexpr int64_t kPackedFeatures = 256;        // of a unit of packing
constexpr int64_t kLongestDirectStride = 2048;  // bytes
constexpr int64_t kWideStep = 16;               // wide products take multiples of this batch
constexpr int64_t kTallStep = 6;                // rows of the best tile of a tall product
constexpr int64_t kCyclesOfUnit = 40000;        // about ten microseconds

constexpr int64_t kOutputsOfGroup = 32;         // a cache line of 16-bit numbers
constexpr int64_t kPrefetchedAhead = 8;         // blocks
constexpr int64_t kPrefetchedBytes = 512;       // of each

bool IsZeroOrOne(float gate) { return gate == 0.0f || gate == 1.0f; }

// One call. Its batch becomes the columns of Products ("wide") or the rows ("tall"):
//  - features first: wide, as vectors of batch lie in memory;
//  - features last: tall, as vectors of outputs lie in w. But blocks of 8 are too narrow for that,
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
    if (args.gate != nullptr) {
      scales_ = !std::all_of(args.gate, args.gate + index_.num_blocks(), IsZeroOrOne);
    }
    for (int32_t k = 0; k < index_.out_blocks(); ++k) {
      longest_column_ = std::max(longest_column_, index_.offsets()[k + 1] - index_.offsets()[k]);
    }
  }

  void Run() const {
    const bool goes_wide = !features_last_ || (bs_ == 8 && sizeof(Sum) == sizeof(float));
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

  // Activations of a section as products read them: (batch, in / kPairing) if tall, (in / kPairing,
  // batch) if wide, with `stride` elements between rows.
  struct Operand {
    const Elem* data;
    int64_t stride;
  };

  // What a thread works with.
  struct Workspace {
    Workspace(int64_t weights, int64_t sums) : weights(weights), sums(sums), finish(sums) {}

    std::vector<Part> parts;
    Scratch<Elem> weights;
    Scratch<Sum> sums, finish;
  };

  // Whether the weights of a section must be rewritten first, and the activations copied.
  bool PreparesWeights(bool wide) const {
    return scales_ || !kSameType || args_.weight_dtype != args_.dtype ||
           (!wide && args_.transpose);
  }
  bool PacksActivations(bool wide) const {
    if (!wide) return !features_last_ || !(kSameType || kPairs);
    // With a long stride, rows of x fall on few sets of the caches and on a page each: that costs
    // more than a copy.
    return features_last_ || !kSameType ||
           batch_ * static_cast<int64_t>(sizeof(T)) >= kLongestDirectStride;
  }

  const T* X(int64_t n, int64_t feature) const {
    const T* x = static_cast<const T*>(args_.x);
    return features_last_ ? x + n * in_ + feature : x + feature * batch_ + n;
  }
  T* Y(int64_t n, int64_t feature) const {
    T* y = static_cast<T*>(args_.y);
    return features_last_ ? y + n * out_ + feature : y + feature * batch_ + n;
  }

  const char* Weights(const BlockIndex::Entry& entry) const {
    const int64_t width = args_.weight_dtype == args_.dtype ? sizeof(T) : sizeof(float);
    return static_cast<const char*>(args_.w) + entry.weight_block * bs_ * bs_ * width;
  }
  // Small blocks lie anywhere in w; the machine only guesses the rest of large ones.
  void PrefetchWeights(int64_t position) const {
    if (position >= index_.num_blocks()) return;
    const char* weights = Weights(index_.entries()[position]);
    const int64_t bytes = std::min<int64_t>(bs_ * bs_ * sizeof(T), kPrefetchedBytes);
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(weights + i);
  }

  void RunSection(const Section& section) const;
  void PackPanel(const Section& panel, int64_t feature, int64_t features, Elem* out) const;
  Operand InPlace(const Section& panel) const;
  void RunPanel(const Section& panel, const Operand& x, int32_t first_column, int32_t last_column,
                Workspace* workspace) const;
  Product<Elem> ProductOf(int32_t column, const Section& panel, const Operand& x,
                          Workspace* workspace) const;
  const Elem* GatherParts(int32_t column, const Section& panel, const Operand& x,
                          Workspace* workspace) const;

  const CpuMatmulArgs& args_;
  const Kernels<T, Elem>& kernels_;
  const ParallelFor& parallel_for_;
  const BlockIndex& index_;
  const int64_t bs_, in_, out_, batch_;
  const bool features_last_;
  bool scales_ = false;
  int64_t longest_column_ = 0;
};

template <typename T, typename Elem>
void Matmul<T, Elem>::RunSection(const Section& section) const {
  const bool packs = PacksActivations(section.wide), prepares = PreparesWeights(section.wide);
  const int64_t row_bytes = std::max<int64_t>(in_ / kPairing * sizeof(Elem), 1);
  const int64_t panel_bytes = (prepares || args_.transpose ? 2 : 1) * kPanelBytes;
  const int64_t largest_panel =
      std::clamp(panel_bytes / row_bytes, kSmallestPanel, kLargestPanel);
  const int64_t step = section.wide ? kWideStep : kTallStep;
  const int64_t largest_round =
      CeilDiv(packs ? std::max(kPackedBytes / row_bytes, largest_panel) : section.size(), step) *
      step;
  const Pieces rounds(section.size(), largest_round, step);

  const int64_t panel_rows = std::min(largest_panel, rounds.End(0));
  // Per weight: 16 products a cycle, or at small batches the time to fetch it.
  const int64_t cycles_of_block = bs_ * bs_ * (panel_rows + 8) / 16;
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
    const Scratch<Elem> packed(packs ? panels.total * (in_ / kPairing) : 0);
    const auto packed_at = [&](int64_t i) {
      return packed.get() + panels.Begin(i) * (in_ / kPairing);
    };
    if (packs) {
      const int64_t slices = CeilDiv(in_, kPackedFeatures);
      parallel_for_(panels.count * slices, panel_rows * kPackedFeatures,
                    [&](int64_t first, int64_t last) {
                      for (int64_t u = first; u < last; ++u) {
                        const int64_t feature = u % slices * kPackedFeatures;
                        PackPanel(panel_at(u / slices), feature,
                                  std::min(kPackedFeatures, in_ - feature), packed_at(u / slices));
                      }
                    });
    }
    parallel_for_(panels.count * num_runs, cycles_of_run, [&](int64_t first, int64_t last) {
      Workspace workspace(prepares ? longest_column_ * bs_ * bs_ / kPairing : 0,
                          largest_panel * std::max(bs_, kOutputsOfGroup));
      for (int64_t u = first; u < last; ++u) {
        const Section panel = panel_at(u / num_runs);
        const Operand x = packs ? Operand{packed_at(u / num_runs),
                                          section.wide ? panel.size() : in_ / kPairing}
                                : InPlace(panel);
        RunPanel(panel, x, runs[u % num_runs], runs[u % num_runs + 1], &workspace);
      }
    });
  }
}

// Packs [feature, feature + features) of a panel.
template <typename T, typename Elem>
void Matmul<T, Elem>::PackPanel(const Section& panel, int64_t feature, int64_t features,
                                Elem* out) const {
  if (kPairs && !panel.wide) {  // pairs of adjacent features: only the order changes
    T* rows = reinterpret_cast<T*>(out) + feature;  // (batch, in)
    for (int64_t n = panel.begin; n < panel.end; ++n, rows += in_) {
      for (int64_t f = 0; f < features; ++f) rows[f] = *X(n, feature + f);
    }
    return;
  }
  Pack<T, Elem> pack;
  pack.in = X(panel.begin, feature);
  pack.in_stride = features_last_ ? in_ : batch_;
  pack.transposed = panel.wide == features_last_;
  pack.out_stride = panel.wide ? panel.size() : in_;
  pack.out = out + (panel.wide ? feature / kPairing * pack.out_stride : feature);
  pack.rows = panel.wide ? features : panel.size();
  pack.columns = panel.wide ? panel.size() : features;
  kernels_.pack(pack);
}

template <typename T, typename Elem>
typename Matmul<T, Elem>::Operand Matmul<T, Elem>::InPlace(const Section& panel) const {
  const Elem* data = reinterpret_cast<const Elem*>(X(panel.begin, 0));
  return {data, panel.wide ? batch_ : in_ / kPairing};
}

// Lists the blocks of an output column that count, and returns where their weights are.
template <typename T, typename Elem>
const Elem* Matmul<T, Elem>::GatherParts(int32_t column, const Section& panel, const Operand& x,
                                         Workspace* workspace) const {
  const bool prepares = PreparesWeights(panel.wide);
  const bool float32_weights = args_.weight_dtype != args_.dtype;
  const int64_t block_elems = bs_ * bs_ / kPairing;
  workspace->parts.clear();
  for (int64_t e = index_.offsets()[column]; e < index_.offsets()[column + 1]; ++e) {
    const BlockIndex::Entry& entry = index_.entries()[e];
    PrefetchWeights(e + kPrefetchedAhead);
    const float gate = args_.gate == nullptr ? 1.0f : args_.gate[entry.weight_block];
    if (gate == 0.0f) continue;
    int64_t weights = entry.weight_block * block_elems;
    if (prepares) {
      weights = static_cast<int64_t>(workspace->parts.size()) * block_elems;
      WeightBlock block;
      block.w = Weights(entry);
      block.block_size = args_.block_size;
      block.float32_weights = float32_weights;
      block.transposed = args_.transpose;
      block.gate = gate;
      kernels_.prepare_weights(block, workspace->weights.get() + weights);
    }
    const int64_t activations = entry.in_block * bs_ / kPairing * (panel.wide ? x.stride : 1);
    workspace->parts.push_back(panel.wide ? Part{weights, activations}
                                          : Part{activations, weights});
  }
  return prepares ? workspace->weights.get() : static_cast<const Elem*>(args_.w);
}

template <typename T, typename Elem>
Product<Elem> Matmul<T, Elem>::ProductOf(int32_t column, const Section& panel, const Operand& x,
                                         Workspace* workspace) const {
  const bool reads_transposed = args_.transpose && !PreparesWeights(panel.wide);
  const Elem* weights = GatherParts(column, panel, x, workspace);
  Product<Elem> product;
  product.parts = workspace->parts.data();
  product.num_parts = static_cast<int64_t>(workspace->parts.size());
  product.depth = bs_ / kPairing;
  product.wide = panel.wide;
  if (panel.wide) {
    product.rows = bs_;
    product.columns = panel.size();
    product.a = weights;
    product.a_row_stride = reads_transposed ? bs_ : 1;
    product.a_depth_stride = reads_transposed ? 1 : bs_;
    product.b = x.data;
    product.b_stride = x.stride;
  } else {
    product.rows = panel.size();
    product.columns = bs_;
    product.a = x.data;
    product.a_row_stride = x.stride;
    product.b = weights;
    product.b_stride = bs_;
  }
  return product;
}

template <typename T, typename Elem>
void Matmul<T, Elem>::RunPanel(const Section& panel, const Operand& x, int32_t first_column,
                               int32_t last_column, Workspace* workspace) const {
  const bool stores_transposed = panel.wide == features_last_;
  const bool sums_in_y = std::is_same<T, Sum>::value && args_.bias == nullptr &&
                         args_.activation == Activation::kNone && !stores_transposed;
  const int64_t y_stride = features_last_ ? out_ : batch_;
  // Columns of 8 outputs that are stored transposed are stored together, so that cache lines of y
  // are written as a whole.
  const int32_t group = panel.wide && stores_transposed ? kOutputsOfGroup / bs_ : 1;
  for (int32_t column = first_column; column < last_column; column += group) {
    const int32_t columns = std::min(group, last_column - column);
    T* y = Y(panel.begin, column * bs_);
    Product<Elem> product;
    for (int32_t i = 0; i < columns; ++i) {
      product = ProductOf(column + i, panel, x, workspace);
      product.c = workspace->sums.get() + i * bs_ * product.columns;
      product.c_stride = product.columns;
      if constexpr (std::is_same<T, Sum>::value) {
        if (sums_in_y) {
          product.c = y;
          product.c_stride = y_stride;
        }
      }
      kernels_.multiply(product);
    }
    if (sums_in_y) continue;

    Finish<T> finish;
    finish.sums = workspace->sums.get();
    finish.rows = panel.wide ? columns * bs_ : product.rows;
    finish.columns = product.columns;
    if (args_.bias != nullptr) {
      const T* bias = static_cast<const T*>(args_.bias) + column * bs_;
      (panel.wide ? finish.row_bias : finish.column_bias) = bias;
    }
    finish.activation = args_.activation;
    finish.workspace = workspace->finish.get();
    finish.y = y;
    finish.y_stride = y_stride;
    finish.transposed = stores_transposed;
    kernels_.finish(finish);
  }
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
