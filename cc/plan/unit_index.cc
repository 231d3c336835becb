#include "cc/plan/unit_index.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <utility>

namespace bsparse {

UnitIndex GatherUnits(const BlockIndex& index, int32_t unit_blocks) {
  const int32_t size = unit_blocks * unit_blocks;
  std::vector<int32_t> coords;
  std::vector<int32_t> weight_blocks;
  std::map<std::pair<int32_t, int32_t>, int32_t> numbers;
  for (int32_t k = 0; k < index.out_blocks(); ++k) {
    for (int64_t e = index.offsets()[k]; e < index.offsets()[k + 1]; ++e) {
      const BlockIndex::Entry& entry = index.entries()[e];
      const std::pair<int32_t, int32_t> place = {entry.in_block / unit_blocks, k / unit_blocks};
      const auto [found, is_new] = numbers.emplace(place, static_cast<int32_t>(numbers.size()));
      if (is_new) {
        coords.insert(coords.end(), {place.first, place.second});
        weight_blocks.insert(weight_blocks.end(), size, -1);
      }
      const int32_t in_unit = entry.in_block % unit_blocks * unit_blocks + k % unit_blocks;
      weight_blocks[static_cast<size_t>(found->second) * size + in_unit] = entry.weight_block;
    }
  }
  const auto units = [unit_blocks](int32_t blocks) { return (blocks + unit_blocks - 1) / unit_blocks; };
  const LayoutView layout = {coords.data(), static_cast<int64_t>(numbers.size()),
                             units(index.in_blocks()), units(index.out_blocks())};
  return {BlockIndex(layout, /*transpose=*/false), unit_blocks, std::move(weight_blocks)};
}

std::vector<int32_t> NameBlocksOfUnits(const UnitIndex& units, const std::vector<int32_t>& records,
                                       int32_t columns, int32_t words, int32_t new_words) {
  const auto count = records.size() / words;
  const int32_t size = units.blocks_of_unit();
  std::vector<int32_t> named(count * new_words, -1);
  for (size_t r = 0; r < count; ++r) {
    const int32_t* const from = records.data() + r * words;
    int32_t* const to = named.data() + r * new_words;
    std::copy_n(from, 2, to);
    for (int32_t c = 0; c < columns; ++c) {
      if (from[2 + c] < 0) continue;
      std::copy_n(units.weight_blocks.begin() + static_cast<int64_t>(from[2 + c]) * size, size,
                  to + 2 + c * size);
    }
  }
  return named;
}

}  // namespace bsparse
