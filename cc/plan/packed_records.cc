#include "cc/plan/packed_records.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <utility>

#include "cuda/bsparse_cuda.h"

namespace bsparse {
namespace {

int32_t CeilDiv(int32_t a, int32_t b) { return (a + b - 1) / b; }

// Rounds further on that may come sooner, and the share of rounds of nothing beyond which these cost more
// than a longer ring gives.
constexpr int64_t kLookAhead = 32, kFewOf = 32;

// The blocks of square `s` of a unit, or null if none is stored.
const int32_t* SquareOf(const UnitIndex& units, int32_t unit, int32_t s) {
  if (unit < 0) return nullptr;
  const int32_t size = units.column_blocks * units.column_blocks;
  const int32_t* const blocks = units.weight_blocks.data() +
                                int64_t{unit} * units.entry_blocks * units.column_blocks + s * size;
  return *std::max_element(blocks, blocks + size) < 0 ? nullptr : blocks;
}

int32_t SquaresOf(const UnitIndex& units, const int32_t* record, int32_t cta_columns) {
  int32_t count = 0;
  for (int32_t s = 0; s < units.entry_blocks / units.column_blocks; ++s) {
    for (int32_t c = 0; c < cta_columns; ++c) {
      count += SquareOf(units, record[2 + c], s) != nullptr;
    }
  }
  return count;
}

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

StageShape StageOf(int32_t entry_blocks, int32_t column_blocks, int32_t cta_columns) {
  constexpr int32_t kElementBytes = 2;  // no others are packed
  const int32_t side = BSPARSE_UNION_OUTPUTS / cta_columns;  // of a square
  return {BSPARSE_PACKED_STAGE_INPUTS / (side * entry_blocks / column_blocks),
          BSPARSE_SMALL_STAGE_BYTES / (side * side * kElementBytes)};
}

void KeepStagesSmall(const UnitIndex& units, int32_t ctas, int32_t cta_columns, size_t first,
                     std::vector<int32_t>* records) {
  const StageShape stage = StageOf(units.entry_blocks, units.column_blocks, cta_columns);
  const int32_t words = bsparse_record_words(cta_columns);
  const int64_t row = int64_t{ctas} * words;
  const int64_t rounds = static_cast<int64_t>(records->size() - first) / row;
  std::vector<int32_t> squares(rounds * ctas);
  for (int64_t i = 0; i < rounds * ctas; ++i) {
    squares[i] = SquaresOf(units, records->data() + first + i * words, cta_columns);
  }
  constexpr int64_t kNothing = -1;
  std::vector<int64_t> order;
  std::vector<bool> placed(rounds, false);
  std::vector<int32_t> load(ctas);
  for (int64_t next = 0; next < rounds;) {
    const bool begins = static_cast<int64_t>(order.size()) % stage.entries == 0;
    if (begins) std::fill(load.begin(), load.end(), 0);
    int64_t found = kNothing;
    for (int64_t r = next; r < std::min(rounds, next + kLookAhead) && found == kNothing; ++r) {
      bool fits = !placed[r];
      for (int32_t cta = 0; cta < ctas && fits && !begins; ++cta) {
        fits = load[cta] + squares[r * ctas + cta] <= stage.small_squares;
      }
      if (fits) found = r;
    }
    order.push_back(found);
    if (static_cast<int64_t>(order.size()) - rounds > rounds / kFewOf) return;
    if (found == kNothing) continue;
    placed[found] = true;
    for (int32_t cta = 0; cta < ctas; ++cta) load[cta] += squares[found * ctas + cta];
    while (next < rounds && placed[next]) ++next;
  }
  std::vector<int32_t> ordered;
  ordered.reserve(order.size() * row);
  for (const int64_t r : order) {
    if (r != kNothing) {
      const auto from = records->begin() + first + r * row;
      ordered.insert(ordered.end(), from, from + row);
      continue;
    }
    for (int32_t cta = 0; cta < ctas; ++cta) {
      ordered.insert(ordered.end(), words, -1);
      *(ordered.end() - words + 1) = 0;  // sends nothing
    }
  }
  records->resize(first);
  records->insert(records->end(), ordered.begin(), ordered.end());
}

int32_t FullestStage(const std::vector<int32_t>& packed_records, int64_t first, int64_t end,
                     int32_t ctas, const StageShape& stage) {
  int32_t most = 0;
  for (int32_t cta = 0; cta < ctas; ++cta) {
    for (int64_t begin = first; begin < end; begin += stage.entries) {
      int32_t squares = 0;
      for (int64_t e = begin; e < std::min(end, begin + stage.entries); ++e) {
        const int32_t mask = packed_records[(e * ctas + cta) * BSPARSE_PACKED_RECORD_WORDS + 3];
        squares += __builtin_popcount(static_cast<uint32_t>(mask));
      }
      most = std::max(most, squares);
    }
  }
  return most;
}

PackedRecords PackRecords(const UnitIndex& units, const std::vector<int32_t>& records,
                          const std::vector<int64_t>& offsets, int32_t ctas, int32_t cta_columns) {
  const int32_t words = bsparse_record_words(cta_columns);
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
            const int32_t* const blocks = SquareOf(units, from[2 + c], s);
            if (blocks == nullptr) continue;
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
