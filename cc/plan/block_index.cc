#include "cc/plan/block_index.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace bsparse {
namespace {

std::string Coordinate(const LayoutView& layout, int64_t block) {
  return "coords[" + std::to_string(block) + "] = (" + std::to_string(layout.coords[2 * block]) +
         ", " + std::to_string(layout.coords[2 * block + 1]) + ")";
}

}  // namespace

std::string ValidateLayout(const LayoutView& layout) {
  for (int64_t b = 0; b < layout.num_blocks; ++b) {
    const int32_t c = layout.coords[2 * b];
    const int32_t k = layout.coords[2 * b + 1];
    if (c < 0 || c >= layout.in_blocks || k < 0 || k >= layout.out_blocks) {
      return Coordinate(layout, b) + " is out of range: the layout has " +
             std::to_string(layout.in_blocks) + " input blocks and " +
             std::to_string(layout.out_blocks) + " output blocks";
    }
  }
  // Sorting keys, rather than marking a CB x KB bitmap, keeps the memory in proportion to the
  // stored blocks.
  std::vector<std::pair<int64_t, int64_t>> keys(layout.num_blocks);  // (position, block)
  for (int64_t b = 0; b < layout.num_blocks; ++b) {
    keys[b] = {int64_t{layout.coords[2 * b]} * layout.out_blocks + layout.coords[2 * b + 1], b};
  }
  std::sort(keys.begin(), keys.end());
  for (int64_t i = 1; i < layout.num_blocks; ++i) {
    if (keys[i].first == keys[i - 1].first) {
      return Coordinate(layout, keys[i].second) + " repeats coords[" +
             std::to_string(keys[i - 1].second) + "]: each block may be given once";
    }
  }
  return "";
}

BlockIndex::BlockIndex(const LayoutView& layout, bool transpose)
    : is_transposed_(transpose),
      in_blocks_(transpose ? layout.out_blocks : layout.in_blocks),
      out_blocks_(transpose ? layout.in_blocks : layout.out_blocks),
      offsets_(static_cast<size_t>(out_blocks_) + 1, 0),
      entries_(layout.num_blocks) {
  const int in_field = transpose ? 1 : 0;
  const int out_field = 1 - in_field;
  for (int64_t b = 0; b < layout.num_blocks; ++b) {
    ++offsets_[layout.coords[2 * b + out_field] + 1];
  }
  std::partial_sum(offsets_.begin(), offsets_.end(), offsets_.begin());
  std::vector<int64_t> next(offsets_.begin(), offsets_.end() - 1);
  for (int64_t b = 0; b < layout.num_blocks; ++b) {
    Entry& entry = entries_[next[layout.coords[2 * b + out_field]]++];
    entry.in_block = layout.coords[2 * b + in_field];
    entry.weight_block = static_cast<int32_t>(b);
  }
  for (int32_t k = 0; k < out_blocks_; ++k) {
    std::sort(entries_.begin() + offsets_[k], entries_.begin() + offsets_[k + 1],
              [](const Entry& a, const Entry& b) { return a.in_block < b.in_block; });
  }
}

BlockIndex CellsOf(const BlockIndex& index, int32_t cells) {
  const int64_t of_block = int64_t{cells} * cells;
  std::vector<int32_t> coords(2 * index.num_blocks() * of_block);
  for (int32_t out = 0; out < index.out_blocks(); ++out) {
    for (int64_t e = index.offsets()[out]; e < index.offsets()[out + 1]; ++e) {
      const BlockIndex::Entry& entry = index.entries()[e];
      const int32_t c = index.is_transposed() ? out : entry.in_block;
      const int32_t k = index.is_transposed() ? entry.in_block : out;
      for (int64_t cell = 0; cell < of_block; ++cell) {
        int32_t* const coord = &coords[2 * (entry.weight_block * of_block + cell)];
        coord[0] = c * cells + static_cast<int32_t>(cell / cells);
        coord[1] = k * cells + static_cast<int32_t>(cell % cells);
      }
    }
  }
  LayoutView view{coords.data(), static_cast<int64_t>(coords.size() / 2),
                  index.in_blocks() * cells, index.out_blocks() * cells};
  if (index.is_transposed()) std::swap(view.in_blocks, view.out_blocks);
  return BlockIndex(view, index.is_transposed());
}

}  // namespace bsparse
