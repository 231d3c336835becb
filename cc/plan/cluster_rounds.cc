#include "cc/plan/cluster_rounds.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <numeric>
#include <set>

namespace bsparse {
namespace {

// An input block, and the weight block of each of the cluster's columns or -1.
struct Need {
  int32_t in_block;
  std::vector<int32_t> weight_blocks;
};

// What the columns use, by rising input block.
std::vector<Need> CollectNeeds(const BlockIndex& index, const int32_t* columns, int32_t count) {
  std::vector<int64_t> next(count, 0), end(count, 0);
  for (int32_t i = 0; i < count; ++i) {
    if (columns[i] < 0) continue;
    next[i] = index.offsets()[columns[i]];
    end[i] = index.offsets()[columns[i] + 1];
  }
  std::vector<Need> needs;
  for (;;) {
    constexpr int32_t kNone = std::numeric_limits<int32_t>::max();
    int32_t in_block = kNone;
    for (int32_t i = 0; i < count; ++i) {
      if (next[i] < end[i]) in_block = std::min(in_block, index.entries()[next[i]].in_block);
    }
    if (in_block == kNone) return needs;
    needs.push_back({in_block, std::vector<int32_t>(count, -1)});
    for (int32_t i = 0; i < count; ++i) {
      if (next[i] == end[i] || index.entries()[next[i]].in_block != in_block) continue;
      needs.back().weight_blocks[i] = index.entries()[next[i]++].weight_block;
    }
  }
}

// What is still to be taken: for each set of CTAs, as bits, the needs that just they have.
class Left {
 public:
  Left(const std::vector<Need>& needs, int32_t ctas, int32_t cta_columns)
      : by_ctas_(size_t{1} << ctas), count_(ctas, 0) {
    for (size_t i = 0; i < needs.size(); ++i) {
      uint32_t who = 0;
      for (int32_t c = 0; c < ctas * cta_columns; ++c) {
        if (needs[i].weight_blocks[c] >= 0) who |= 1u << c / cta_columns;
      }
      by_ctas_[who].insert(static_cast<int32_t>(i));
      for (int32_t r = 0; r < ctas; ++r) count_[r] += who >> r & 1;
    }
  }

  int32_t most() const { return *std::max_element(count_.begin(), count_.end()); }

  // CTAs that need at least so many.
  uint32_t with(int32_t least) const {
    uint32_t ctas = 0;
    for (size_t r = 0; r < count_.size(); ++r) {
      if (count_[r] >= least) ctas |= 1u << r;
    }
    return ctas;
  }

  // The CTAs of the first need, or 0.
  uint32_t FirstOfAll() const {
    uint32_t best = 0;
    for (uint32_t who = 1; who < by_ctas_.size(); ++who) {
      if (!by_ctas_[who].empty() && (best == 0 || First(who) < First(best))) best = who;
    }
    return best;
  }

  // The set of CTAs with needs that has most of the `open` ones, and the earliest need of those; 0
  // if there is none. `whole`: it must have no others.
  uint32_t Most(uint32_t open, bool whole) const {
    uint32_t best = 0;
    int most = 0;
    for (uint32_t who = 1; who < by_ctas_.size(); ++who) {
      if (by_ctas_[who].empty() || (whole && (who & ~open) != 0)) continue;
      const int served = __builtin_popcount(who & open);
      if (served > most || (served == most && most > 0 && First(who) < First(best))) {
        most = served;
        best = who;
      }
    }
    return best;
  }

  // Takes the first need of the CTAs `who` for the `served` of them.
  int32_t Take(uint32_t who, uint32_t served) {
    const int32_t need = First(who);
    by_ctas_[who].erase(by_ctas_[who].begin());
    if (who != served) by_ctas_[who & ~served].insert(need);
    for (size_t r = 0; r < count_.size(); ++r) count_[r] -= served >> r & 1;
    return need;
  }

 private:
  int32_t First(uint32_t who) const { return *by_ctas_[who].begin(); }

  std::vector<std::set<int32_t>> by_ctas_;
  std::vector<int32_t> count_;  // of the needs of each CTA
};

}  // namespace

std::vector<int32_t> DealToClusters(const BlockIndex& index, const std::vector<int32_t>& groups,
                                    int32_t columns, int32_t ctas) {
  const size_t count = groups.size() / columns;
  std::vector<size_t> lengths(count);
  for (size_t g = 0; g < count; ++g) {
    lengths[g] = CollectNeeds(index, groups.data() + g * columns, columns).size();
  }
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&lengths](size_t a, size_t b) { return lengths[a] > lengths[b]; });
  std::vector<int32_t> dealt;
  for (const size_t g : order) {
    dealt.insert(dealt.end(), groups.begin() + g * columns, groups.begin() + (g + 1) * columns);
  }
  const size_t clusters = (count + ctas - 1) / ctas;
  dealt.resize(clusters * ctas * columns, -1);
  return dealt;
}

void AppendRounds(const BlockIndex& index, const int32_t* columns, int32_t ctas,
                  int32_t cta_columns, int32_t words, std::vector<int32_t>* table) {
  const std::vector<Need> needs = CollectNeeds(index, columns, ctas * cta_columns);
  Left left(needs, ctas, cta_columns);
  std::vector<int32_t> sent(ctas, 0);
  while (left.most() > 0) {
    const size_t row = table->size();
    table->resize(row + static_cast<size_t>(ctas) * words, -1);
    for (int32_t r = 0; r < ctas; ++r) (*table)[row + r * words + 1] = 0;
    const auto give = [&](uint32_t who, uint32_t served) {
      const Need& need = needs[left.Take(who, served)];
      int32_t sender = -1;
      for (int32_t r = 0; r < ctas; ++r) {
        if ((served >> r & 1) == 0) continue;
        if (sender < 0 || sent[r] < sent[sender]) sender = r;
        int32_t* const record = table->data() + row + r * words;
        record[0] = need.in_block;
        std::copy_n(need.weight_blocks.begin() + r * cta_columns, cta_columns, record + 2);
      }
      (*table)[row + sender * words + 1] = static_cast<int32_t>(served);
      ++sent[sender];
    };
    uint32_t urgent = left.with(left.most());
    uint32_t open = left.with(1);
    for (uint32_t who = left.FirstOfAll(); who != 0; who = left.Most(open, /*whole=*/true)) {
      give(who, who);
      open &= ~who;
      urgent &= ~who;
    }
    while (urgent != 0) {
      const uint32_t who = left.Most(urgent, /*whole=*/false);
      // Those that may come along are served too.
      const uint32_t served = who & open;
      give(who, served);
      open &= ~served;
      urgent &= ~served;
    }
  }
}

}  // namespace bsparse
