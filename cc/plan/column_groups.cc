#include "cc/plan/column_groups.h"

#include <algorithm>
#include <cstddef>

namespace bsparse {
namespace {

// Bounds the search on wide layouts; columns this far down differ in weight anyway.
constexpr int kCandidates = 512;

// Columns, and the input blocks that any of them uses, as bits.
struct Cluster {
  std::vector<int32_t> columns;
  std::vector<uint64_t> inputs;
  int64_t count = 0;
};

int64_t CountCommon(const Cluster& a, const Cluster& b) {
  int64_t common = 0;
  for (size_t i = 0; i < a.inputs.size(); ++i) {
    common += __builtin_popcountll(a.inputs[i] & b.inputs[i]);
  }
  return common;
}

void Absorb(const Cluster& from, Cluster* to) {
  to->columns.insert(to->columns.end(), from.columns.begin(), from.columns.end());
  to->count = 0;
  for (size_t i = 0; i < to->inputs.size(); ++i) {
    to->inputs[i] |= from.inputs[i];
    to->count += __builtin_popcountll(to->inputs[i]);
  }
}

// Puts `size` clusters each into one.
std::vector<Cluster> Merge(std::vector<Cluster> clusters, int32_t size) {
  if (size == 1) return clusters;
  std::stable_sort(clusters.begin(), clusters.end(),
                   [](const Cluster& a, const Cluster& b) { return a.count > b.count; });
  std::vector<Cluster> merged;
  std::vector<bool> taken(clusters.size(), false);
  for (size_t seed = 0; seed < clusters.size(); ++seed) {
    if (taken[seed]) continue;
    Cluster group = clusters[seed];
    for (int32_t member = 1; member < size; ++member) {
      size_t best = clusters.size();
      double best_similarity = -1.0;
      int candidates = 0;
      for (size_t c = seed + 1; c < clusters.size() && candidates < kCandidates; ++c) {
        if (taken[c]) continue;
        ++candidates;
        const int64_t common = CountCommon(group, clusters[c]);
        const int64_t together = group.count + clusters[c].count - common;
        const double similarity = together == 0 ? 1.0 : static_cast<double>(common) / together;
        if (similarity > best_similarity) {
          best_similarity = similarity;
          best = c;
        }
      }
      if (best == clusters.size()) break;
      taken[best] = true;
      Absorb(clusters[best], &group);
    }
    merged.push_back(std::move(group));
  }
  return merged;
}

}  // namespace

std::vector<int32_t> GroupColumns(const BlockIndex& index, int32_t columns, int32_t shared) {
  std::vector<Cluster> clusters(index.out_blocks());
  for (int32_t k = 0; k < index.out_blocks(); ++k) {
    clusters[k].columns = {k};
    if (columns == 1) continue;
    clusters[k].inputs.resize((index.in_blocks() + 63) / 64);
    for (int64_t e = index.offsets()[k]; e < index.offsets()[k + 1]; ++e) {
      const int32_t c = index.entries()[e].in_block;
      clusters[k].inputs[c / 64] |= uint64_t{1} << c % 64;
    }
    clusters[k].count = index.offsets()[k + 1] - index.offsets()[k];
  }
  // A neighbourhood that is not full (the last) is filled up before it is joined.
  clusters = Merge(std::move(clusters), shared);
  for (Cluster& cluster : clusters) cluster.columns.resize(shared, -1);
  clusters = Merge(std::move(clusters), columns / shared);
  std::vector<int32_t> groups;
  for (Cluster& cluster : clusters) {
    cluster.columns.resize(columns, -1);
    groups.insert(groups.end(), cluster.columns.begin(), cluster.columns.end());
  }
  return groups;
}

}  // namespace bsparse
