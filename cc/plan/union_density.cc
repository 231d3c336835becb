#include "cc/plan/union_density.h"

#include <algorithm>
#include <vector>

namespace bsparse {
namespace {

constexpr int32_t kSamples = 16;
constexpr int32_t kColumns = 4;  // of a neighbourhood
constexpr int32_t kCandidates = 512;  // of a neighbourhood's search

using Units = std::vector<std::vector<int32_t>>;  // input units of each column of units, heaviest first

Units GatherColumns(const BlockIndex& index, int32_t unit_blocks) {
  Units columns((index.out_blocks() + unit_blocks - 1) / unit_blocks);
  for (int32_t k = 0; k < index.out_blocks(); ++k) {
    for (int64_t e = index.offsets()[k]; e < index.offsets()[k + 1]; ++e) {
      columns[k / unit_blocks].push_back(index.entries()[e].in_block / unit_blocks);
    }
  }
  for (std::vector<int32_t>& column : columns) {
    std::sort(column.begin(), column.end());
    column.erase(std::unique(column.begin(), column.end()), column.end());
  }
  std::stable_sort(columns.begin(), columns.end(),
                   [](const auto& a, const auto& b) { return a.size() > b.size(); });
  return columns;
}

// Input units of the neighbourhood that grows from a column: from among those behind it, as the others are in the
// neighbourhoods of heavier columns.
int64_t CountUnion(const Units& columns, int32_t seed, int32_t inputs) {
  std::vector<bool> used(inputs, false);
  std::vector<bool> taken(columns.size(), false);
  int64_t count = 0;
  const auto absorb = [&](int32_t column) {
    taken[column] = true;
    for (const int32_t unit : columns[column]) {
      count += !used[unit];
      used[unit] = true;
    }
  };
  absorb(seed);
  const auto number = static_cast<int32_t>(columns.size());
  const int32_t stride = std::max(1, (number - seed) / kCandidates);
  for (int32_t member = 1; member < kColumns; ++member) {
    int32_t best = -1;
    double best_similarity = -1.0;
    for (int32_t column = seed + 1; column < number; column += stride) {
      if (taken[column]) continue;
      int64_t common = 0;
      for (const int32_t unit : columns[column]) common += used[unit];
      const auto size = static_cast<int64_t>(columns[column].size());
      const int64_t together = count + size - common;
      const double similarity = together == 0 ? 1.0 : static_cast<double>(common) / together;
      if (similarity > best_similarity) {
        best_similarity = similarity;
        best = column;
      }
    }
    if (best < 0) break;
    absorb(best);
  }
  return count;
}

}  // namespace

double UnionDensity(const BlockIndex& index, int32_t unit_blocks) {
  const Units columns = GatherColumns(index, unit_blocks);
  const int32_t inputs = (index.in_blocks() + unit_blocks - 1) / unit_blocks;
  const auto number = static_cast<int32_t>(columns.size());
  // Every neighbourhood takes four columns off what is left.
  const int32_t neighbourhoods = (number - 1) / kColumns + 1;
  const int32_t samples = std::min(kSamples, neighbourhoods);
  int64_t used = 0;
  for (int32_t sample = 0; sample < samples; ++sample) {
    const auto neighbourhood = static_cast<int32_t>(int64_t{sample} * neighbourhoods / samples);
    used += CountUnion(columns, kColumns * neighbourhood, inputs);
  }
  return static_cast<double>(used) / (static_cast<double>(samples) * inputs);
}

}  // namespace bsparse
