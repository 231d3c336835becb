#include "cc/plan/packed_records.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <utility>

#include "cuda/bsparse_cuda.h"

namespace bsparse {
namespace {

int32_t CeilDiv(int32_t a, int32_t b) { return (a + b - 1) / b; }

}  // namespace

UnitIndex GatherUnits(const BlockIndex& index, int32_t entry_blocks, int32_t column_blocks) {
  const int32_t size = entry_blocks * column_blocks;
  std::vector<int32_t> coords;
  std::vector<int32_t> weight_blocks;
  std::map<std::pair<int32_t, int32_t>, int32_t> numbers;
  for (int32_t k = 0; k < index.out_blocks(); ++k) {
    for (int64_t e = index.offsets()[k]; e < index.offsets()[k + 1]; ++e) {
      const BlockIndex::Entry& entry = index.entries()[e];
      const std::pair<int32_t, int32_t> place = {entry.in_block / entry_blocks, k / column_blocks};
      const auto [found, is_new] = numbers.emplace(place, static_cast<int32_t>(numbers.size()));
      if (is_new) {
        coords.insert(coords.end(), {place.first, place.second});
        weight_blocks.insert(weight_blocks.end(), size, -1);
      }
      const int32_t in_unit = entry.in_block % entry_blocks * column_blocks + k % column_blocks;
      weight_blocks[static_cast<size_t>(found->second) * size + in_unit] = entry.weight_block;
    }
  }
  const LayoutView layout = {coords.data(), static_cast<int64_t>(numbers.size()),
                             CeilDiv(index.in_blocks(), entry_blocks),
                             CeilDiv(index.out_blocks(), column_blocks)};
  return {BlockIndex(layout, /*transpose=*/false), entry_blocks, column_blocks,
          std::move(weight_blocks)};
}

PackedRecords PackRecords(const UnitIndex& units, const std::vector<int32_t>& records,
                          const std::vector<int64_t>& offsets, int32_t ctas, int32_t cta_columns) {
  const int32_t words = bsparse_record_words(cta_columns);
  const int32_t unit_size = units.entry_blocks * units.column_blocks;
  const int32_t square_size = units.column_blocks * units.column_blocks;
  const int32_t squares = units.entry_blocks / units.column_blocks;  // of a unit
  PackedRecords packed;
  packed.records.resize(records.size() / words * BSPARSE_PACKED_RECORD_WORDS, 0);
  for (size_t g = 0; g + 1 < offsets.size(); ++g) {
    for (int32_t cta = 0; cta < ctas; ++cta) {
      for (int64_t entry = offsets[g]; entry < offsets[g + 1]; ++entry) {
        const int64_t place = entry * ctas + cta;
        const int32_t* const from = records.data() + place * words;
        int32_t* const to = packed.records.data() + place * BSPARSE_PACKED_RECORD_WORDS;
        std::copy_n(from, 2, to);
        to[2] = packed.num_packed;
        uint32_t mask = 0;
        for (int32_t s = 0; s < squares; ++s) {
          for (int32_t c = 0; c < cta_columns; ++c) {
            const int32_t unit = from[2 + c];
            if (unit < 0) continue;
            const auto blocks = units.weight_blocks.begin() +
                                static_cast<int64_t>(unit) * unit_size + s * square_size;
            if (*std::max_element(blocks, blocks + square_size) < 0) continue;
            mask |= 1u << (s * cta_columns + c);
            packed.order.insert(packed.order.end(), blocks, blocks + square_size);
            ++packed.num_packed;
          }
        }
        to[3] = static_cast<int32_t>(mask);
      }
    }
  }
  return packed;
}

}  // namespace bsparse
