#include "cc/plan/sweep_stages.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <numeric>
#include <utility>

#include "cuda/bsparse_cuda.h"

namespace bsparse {
namespace {

constexpr int32_t kWarps = BSPARSE_SWEEP_WARPS;
constexpr int32_t kHeaderBytes = kWarps * BSPARSE_SWEEP_HEADER_BYTES;

int32_t RoundUp(int32_t count, int32_t to) { return (count + to - 1) / to * to; }

// (groups, columns): the columns of each warp of each CTA are neighbours here.
std::vector<int32_t> DealColumns(const BlockIndex& index, const SweepShape& shape) {
  const int32_t width = shape.unit_columns;
  const int32_t units = RoundUp(index.out_blocks(), width) / width;
  const auto weight = [&](int32_t unit) {
    return index.offsets()[std::min(index.out_blocks(), (unit + 1) * width)] -
           index.offsets()[unit * width];
  };
  // Doublings of the mean.
  const double mean = static_cast<double>(index.num_blocks()) / units;
  std::vector<long> magnitude(units);
  for (int32_t u = 0; u < units; ++u) {
    magnitude[u] = std::lround(std::log2((weight(u) + 1) / (mean + 1)));
  }
  std::vector<int32_t> order(units);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return magnitude[a] > magnitude[b]; });
  const int32_t warps = shape.ctas * kWarps;
  const int32_t warp_units = shape.cta_columns / width / kWarps;
  const int32_t group_units = warps * warp_units;
  const int32_t groups = RoundUp(units, group_units) / group_units;
  for (int32_t g = 0; g < groups; ++g) {
    const auto first = order.begin() + g * group_units;
    std::stable_sort(first, order.begin() + std::min(units, (g + 1) * group_units),
                     [&](int32_t a, int32_t b) { return weight(a) > weight(b); });
  }
  std::vector<int32_t> columns(static_cast<size_t>(groups) * group_units * width, -1);
  for (int32_t u = 0; u < units; ++u) {
    const int32_t group = u / group_units, round = u % group_units / warps, at = u % warps;
    const int32_t warp = round % 2 == 0 ? at : warps - 1 - at;
    const size_t place = (static_cast<size_t>(group) * warps + warp) * warp_units + round;
    for (int32_t c = 0; c < width; ++c) {
      const int32_t column = order[u] * width + c;
      if (column < index.out_blocks()) columns[place * width + c] = column;
    }
  }
  return columns;
}

// The columns of an item, as they are swept over.
class Sweep {
 public:
  Sweep(const BlockIndex& index, const SweepShape& shape, const int32_t* columns)
      : index_(index), shape_(shape), columns_(columns) {
    const int32_t boxes = RoundUp(index.in_blocks(), shape.box_blocks) / shape.box_blocks;
    counts_.assign(static_cast<size_t>(boxes) * shape.ctas, 0);
    next_.assign(static_cast<size_t>(shape.ctas) * shape.cta_columns, 0);
    for (size_t c = 0; c < next_.size(); ++c) {
      if (columns[c] < 0) continue;
      next_[c] = index.offsets()[columns[c]];
      for (int64_t e = next_[c]; e < index.offsets()[columns[c] + 1]; ++e) {
        const int32_t box = index.entries()[e].in_block / shape.box_blocks;
        ++counts_[box * shape.ctas + c / shape.cta_columns];
      }
    }
  }

  // Appends all stages.
  void AppendTo(SweepStages* cut) {
    std::vector<int32_t> boxes;
    std::vector<int32_t> blocks(shape_.ctas, 0);  // of the stage so far
    const auto all = static_cast<int32_t>(counts_.size() / shape_.ctas);
    const size_t first = cut->stages.size();
    for (int32_t box = 0; box < all; ++box) {
      const int32_t* const more = counts_.data() + static_cast<size_t>(box) * shape_.ctas;
      if (*std::max_element(more, more + shape_.ctas) == 0) continue;
      if (!boxes.empty() && !Fits(boxes.size() + 1, blocks, more)) {
        AppendStage(boxes, EndOf(boxes), cut);
        boxes.clear();
        std::fill(blocks.begin(), blocks.end(), 0);
      }
      boxes.push_back(box);
      if (boxes.size() == 1 && !Fits(1, blocks, more)) {
        AppendParts(boxes, cut);
        boxes.clear();
        continue;
      }
      for (int32_t cta = 0; cta < shape_.ctas; ++cta) blocks[cta] += more[cta];
    }
    if (!boxes.empty()) {
      AppendStage(boxes, EndOf(boxes), cut);
    } else if (cut->stages.size() == first) {
      AppendStage(boxes, {0, 0}, cut);
    }
  }

 private:
  // Columns whose number has one of the first `slices` remainders take the block, too.
  struct End {
    int32_t block, slices;
  };
  static constexpr int32_t kSlices = 4;

  int32_t StageBytes(size_t boxes, int32_t blocks) const {
    return BSPARSE_SWEEP_RECORD_BYTES + static_cast<int32_t>(boxes) * shape_.box_bytes +
           blocks * shape_.block_bytes;
  }

  int32_t EndOf(int32_t box) const { return (box + 1) * shape_.box_blocks; }
  End EndOf(const std::vector<int32_t>& boxes) const { return {EndOf(boxes.back()), 0}; }

  // Whether a stage has room for so many boxes, and the blocks of each CTA.
  bool Fits(size_t boxes, const std::vector<int32_t>& blocks, const int32_t* more) const {
    if (boxes > static_cast<size_t>(BSPARSE_SWEEP_BOXES) * shape_.ctas) return false;
    for (int32_t cta = 0; cta < shape_.ctas; ++cta) {
      const int32_t together = blocks[cta] + more[cta];
      if (StageBytes(boxes, together) > shape_.stage_bytes ||
          kHeaderBytes + together > BSPARSE_SWEEP_RECORD_BYTES) {
        return false;
      }
    }
    return true;
  }

  // Stages of a box alone, each of as much as fits: of a row of blocks after the other, every so many columns at once.
  void AppendParts(const std::vector<int32_t>& box, SweepStages* cut) {
    const int32_t begin = box[0] * shape_.box_blocks;
    const int32_t parts = shape_.box_blocks * kSlices;
    std::vector<int32_t> counts(static_cast<size_t>(parts) * shape_.ctas, 0);
    for (size_t c = 0; c < next_.size(); ++c) {
      if (columns_[c] < 0) continue;
      const int64_t last = index_.offsets()[columns_[c] + 1];
      for (int64_t e = next_[c]; e < last && index_.entries()[e].in_block < EndOf(box[0]); ++e) {
        const auto part = (index_.entries()[e].in_block - begin) * kSlices + static_cast<int32_t>(c % kSlices);
        ++counts[part * shape_.ctas + c / shape_.cta_columns];
      }
    }
    std::vector<int32_t> blocks(shape_.ctas, 0);
    for (int32_t part = 0; part < parts; ++part) {
      const int32_t* const more = counts.data() + static_cast<size_t>(part) * shape_.ctas;
      if (*std::max_element(blocks.begin(), blocks.end()) > 0 && !Fits(1, blocks, more)) {
        AppendStage(box, {begin + part / kSlices, part % kSlices}, cut);
        std::fill(blocks.begin(), blocks.end(), 0);
      }
      for (int32_t cta = 0; cta < shape_.ctas; ++cta) blocks[cta] += more[cta];
    }
    AppendStage(box, EndOf(box), cut);
  }

  // Of what no stage has yet what lies before `end`, in these boxes.
  void AppendStage(const std::vector<int32_t>& boxes, const End& end, SweepStages* cut) {
    for (int32_t cta = 0; cta < shape_.ctas; ++cta) {
      const auto first = static_cast<int32_t>(cut->order.size());
      std::vector<uint8_t> record(kHeaderBytes, 0);
      for (int32_t warp = 0; warp < kWarps; ++warp) {
        AppendWarp(boxes, end, cta, warp, first, &record, cut);
      }
      const int32_t blocks = static_cast<int32_t>(cut->order.size()) - first;
      const int32_t kib = (StageBytes(boxes.size(), blocks) + 1023) / 1024;
      cut->fullest_stage = std::max(cut->fullest_stage, kib);
      record.resize(RoundUp(static_cast<int32_t>(record.size()), 16), 0);
      const auto pieces = static_cast<int32_t>(record.size() / 16);
      int32_t words[BSPARSE_SWEEP_STAGE_WORDS] = {
          static_cast<int32_t>(cut->records.size() / 4),
          pieces | static_cast<int32_t>(boxes.size()) << 16, first, blocks};
      for (size_t i = 0, box = cta; box < boxes.size(); ++i, box += shape_.ctas) {
        words[4 + i / 2] |= static_cast<int32_t>(static_cast<uint32_t>(boxes[box]) << 16 * (i % 2));
      }
      cut->stages.insert(cut->stages.end(), words, words + BSPARSE_SWEEP_STAGE_WORDS);
      const size_t at = cut->records.size();
      cut->records.resize(at + 4 * static_cast<size_t>(pieces));
      std::memcpy(cut->records.data() + at, record.data(), record.size());
    }
  }

  // The blocks of a warp in a stage, column by column, and its header. `first`: of the stage's blocks.
  void AppendWarp(const std::vector<int32_t>& boxes, const End& end, int32_t cta, int32_t warp,
                  int32_t first, std::vector<uint8_t>* record, SweepStages* cut) {
    const int32_t warp_columns = shape_.cta_columns / kWarps;
    const auto begin = static_cast<uint32_t>(cut->order.size()) - first;
    uint32_t header[BSPARSE_SWEEP_HEADER_BYTES / 4] = {};
    header[2] = begin | static_cast<uint32_t>(boxes.size()) << 16;
    for (int32_t c = 0; c < warp_columns; ++c) {
      const size_t column = static_cast<size_t>(cta) * shape_.cta_columns + warp * warp_columns + c;
      if (columns_[column] < 0) continue;
      const int64_t last = index_.offsets()[columns_[column] + 1];
      uint32_t count = 0;
      size_t box = 0;
      const int32_t end_block = end.block + (static_cast<int32_t>(column % kSlices) < end.slices ? 1 : 0);
      for (int64_t& e = next_[column]; e < last && index_.entries()[e].in_block < end_block; ++e, ++count) {
        const BlockIndex::Entry& entry = index_.entries()[e];
        while (boxes[box] < entry.in_block / shape_.box_blocks) ++box;
        record->push_back(static_cast<uint8_t>(static_cast<int32_t>(box) * shape_.box_blocks +
                                               entry.in_block % shape_.box_blocks));
        cut->order.push_back(entry.weight_block);
      }
      header[c / 4] |= count << c % 4 * 8;
    }
    std::memcpy(record->data() + warp * BSPARSE_SWEEP_HEADER_BYTES, header, sizeof(header));
  }

  const BlockIndex& index_;
  const SweepShape& shape_;
  const int32_t* const columns_;
  std::vector<int32_t> counts_;  // (boxes, ctas): blocks
  std::vector<int64_t> next_;    // of each column the first entry that no stage has yet
};

}  // namespace

SweepShape SweepShapeOf(int32_t ctas, int32_t cta_columns, int32_t unit_columns, int32_t box_blocks,
                        int32_t batch_tile, int32_t stage_kib) {
  const int32_t block_size = BSPARSE_SWEEP_SUMS / batch_tile / cta_columns;
  return {ctas,
          cta_columns,
          unit_columns,
          box_blocks,
          BSPARSE_SWEEP_BOX_ROW_BYTES * batch_tile,
          BSPARSE_SWEEP_BOX_ROW_BYTES / box_blocks * block_size,
          1024 * stage_kib};
}

SweepStages CutIntoSweeps(const BlockIndex& index, const SweepShape& shape) {
  SweepStages cut;
  cut.groups = DealColumns(index, shape);
  const int32_t columns = shape.ctas * shape.cta_columns;
  const auto groups = static_cast<int32_t>(cut.groups.size() / columns);
  const int32_t stage_words = shape.ctas * BSPARSE_SWEEP_STAGE_WORDS;
  for (int32_t g = 0; g < groups; ++g) {
    const auto first = static_cast<int32_t>(cut.stages.size() / stage_words);
    Sweep(index, shape, cut.groups.data() + static_cast<size_t>(g) * columns).AppendTo(&cut);
    const auto end = static_cast<int32_t>(cut.stages.size() / stage_words);
    cut.items.insert(cut.items.end(), {g, first, end, -1});
  }
  cut.num_packed = static_cast<int32_t>(cut.order.size());
  cut.order.resize(bsparse_sweep_order(cut.num_packed), -1);
  return cut;
}

}  // namespace bsparse
