#include "cc/plan/stream_cut.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <queue>
#include <utility>

namespace bsparse {
namespace {

// A partial on its way to another list takes about as long as so many times the entries that are taken
// at once. Below these are rounds.
constexpr int64_t kCostOfSplits = 8;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Some or all entries of a column; what several lists share of it are whole rounds but for the last.
struct Piece {
  int32_t column;
  int64_t first;
  int64_t end;
  int64_t rounds;
};

std::vector<Piece> CutColumns(const BlockIndex& index, int64_t longest, int32_t entries) {
  std::vector<Piece> cut;
  for (int32_t k = 0; k < index.out_blocks(); ++k) {
    const int64_t first = index.offsets()[k];
    const int64_t end = index.offsets()[k + 1];
    // A column without blocks takes time too: its outputs are written.
    const int64_t rounds = std::max<int64_t>(1, CeilDiv(end - first, entries));
    const int64_t pieces = CeilDiv(rounds, longest);
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t begin_round = rounds * piece / pieces;
      const int64_t end_round = rounds * (piece + 1) / pieces;
      cut.push_back({k, first + begin_round * entries,
                     std::min(end, first + end_round * entries), end_round - begin_round});
    }
  }
  return cut;
}

struct Lists {
  std::vector<std::vector<Piece>> pieces;
  int64_t longest = 0;  // in rounds
};

// Longest first, each to the list that is shortest (Graham, "Bounds on multiprocessing timing
// anomalies", 1969).
Lists Deal(std::vector<Piece> pieces, int64_t count) {
  std::stable_sort(pieces.begin(), pieces.end(),
                   [](const Piece& a, const Piece& b) { return a.rounds > b.rounds; });
  using Load = std::pair<int64_t, int64_t>;  // rounds, list
  std::priority_queue<Load, std::vector<Load>, std::greater<Load>> shortest;
  for (int64_t list = 0; list < count; ++list) shortest.push({0, list});
  Lists lists;
  lists.pieces.resize(count);
  for (const Piece& piece : pieces) {
    auto [load, list] = shortest.top();
    shortest.pop();
    lists.pieces[list].push_back(piece);
    load += piece.rounds;
    lists.longest = std::max(lists.longest, load);
    shortest.push({load, list});
  }
  return lists;
}

// Pieces of a column that meet on a list become neighbours. Returns on how many lists columns are.
std::vector<int32_t> JoinPieces(Lists* lists, int32_t columns) {
  std::vector<int32_t> shares(columns, 0);
  for (std::vector<Piece>& list : lists->pieces) {
    std::sort(list.begin(), list.end(), [](const Piece& a, const Piece& b) {
      return std::pair(a.column, a.first) < std::pair(b.column, b.first);
    });
    for (size_t i = 0; i < list.size(); ++i) {
      if (i == 0 || list[i].column != list[i - 1].column) ++shares[list[i].column];
    }
  }
  return shares;
}

// Puts the lists in such an order that of those that share a column the last can add up the
// partials of the others, and no list has two columns to add up: [list] -> that column or -1. Empty
// if no such order is found.
std::vector<int32_t> OrderForSums(Lists* lists, const std::vector<int32_t>& shares) {
  const size_t count = lists->pieces.size();
  std::vector<std::vector<int32_t>> open(count);  // columns of a list that have no sum yet
  std::vector<std::vector<size_t>> lists_of(shares.size());
  for (size_t list = 0; list < count; ++list) {
    for (const Piece& piece : lists->pieces[list]) {
      if (shares[piece.column] < 2) continue;
      if (!open[list].empty() && open[list].back() == piece.column) continue;
      open[list].push_back(piece.column);
      lists_of[piece.column].push_back(list);
    }
  }
  // From the end: a list with one open column adds it up, as all others of the column come before.
  std::vector<size_t> ready;
  for (size_t list = count; list-- > 0;) {
    if (open[list].size() < 2) ready.push_back(list);
  }
  std::vector<std::vector<Piece>> ordered(count);
  std::vector<int32_t> sum_of(count, -1);
  for (size_t place = count; place-- > 0;) {
    if (ready.empty()) return {};
    const size_t list = ready.back();
    ready.pop_back();
    ordered[place] = std::move(lists->pieces[list]);
    if (open[list].empty()) continue;
    const int32_t column = open[list].front();
    sum_of[place] = column;
    for (const size_t other : lists_of[column]) {
      open[other].erase(std::find(open[other].begin(), open[other].end(), column));
      if (other != list && open[other].size() == 1) ready.push_back(other);
    }
  }
  lists->pieces = std::move(ordered);
  return sum_of;
}

// False if the columns on several lists cannot be added up.
bool Write(const BlockIndex& index, Lists lists, int32_t entries, StreamCut* out) {
  lists.pieces.erase(std::remove_if(lists.pieces.begin(), lists.pieces.end(),
                                    [](const std::vector<Piece>& list) { return list.empty(); }),
                     lists.pieces.end());
  const std::vector<int32_t> shares = JoinPieces(&lists, index.out_blocks());
  const std::vector<int32_t> sum_of = OrderForSums(&lists, shares);
  if (sum_of.empty()) return false;
  *out = {};
  std::vector<int32_t> split_of(index.out_blocks(), -1);
  std::vector<int32_t> next_partial(index.out_blocks(), -1);
  for (int32_t k = 0; k < index.out_blocks(); ++k) {
    if (shares[k] < 2) continue;
    split_of[k] = static_cast<int32_t>(out->splits.size());
    next_partial[k] = out->num_partials;
    out->splits.push_back({k, out->num_partials, shares[k] - 1});
    out->num_partials += shares[k] - 1;
  }
  out->lists = static_cast<int32_t>(lists.pieces.size());
  out->length = static_cast<int32_t>(lists.longest * entries);
  out->entries.assign(int64_t{out->lists} * out->length, {-1, -1, -1, -1});
  for (int64_t number = 0; number < out->lists; ++number) {
    std::vector<Piece>& list = lists.pieces[number];
    // Partials first, as another list waits for them; the sum that waits for others last.
    const auto rank = [&](const Piece& piece) {
      return split_of[piece.column] < 0 ? 1 : sum_of[number] == piece.column ? 2 : 0;
    };
    std::stable_sort(list.begin(), list.end(),
                     [&](const Piece& a, const Piece& b) { return rank(a) < rank(b); });
    StreamCut::Entry* to = out->entries.data() + number * out->length;
    int32_t column = -1, partial = -1;
    for (const Piece& piece : list) {
      if (piece.column != column) {
        column = piece.column;
        partial = rank(piece) == 0   ? next_partial[column]++
                  : rank(piece) == 1 ? -1
                                     : -2 - split_of[column];
      }
      for (int64_t e = piece.first; e < piece.end; ++e) {
        const BlockIndex::Entry& entry = index.entries()[e];
        *to++ = {column, entry.in_block, entry.weight_block, partial};
      }
      for (int64_t filled = piece.end - piece.first; filled < piece.rounds * entries; ++filled) {
        *to++ = {column, -1, -1, partial};
      }
    }
  }
  return true;
}

}  // namespace

StreamCut CutIntoStreams(const BlockIndex& index, int64_t lists, int32_t entries) {
  lists = std::clamp<int64_t>(lists, 1, std::max<int64_t>(1, index.num_blocks()));
  const int64_t mean = std::max<int64_t>(1, CeilDiv(index.num_blocks(), lists * entries));
  constexpr int64_t kWhole = std::numeric_limits<int64_t>::max() / 2;
  StreamCut best;
  int64_t best_cost = std::numeric_limits<int64_t>::max();
  for (const int64_t limit : {kWhole, mean, CeilDiv(mean, 2), CeilDiv(mean, 4)}) {
    std::vector<Piece> pieces = CutColumns(index, limit, entries);
    const bool cuts = static_cast<int64_t>(pieces.size()) > index.out_blocks();
    Lists dealt = Deal(std::move(pieces), lists);
    const int64_t cost = dealt.longest + (cuts ? kCostOfSplits : 0);
    if (cost < best_cost && Write(index, std::move(dealt), entries, &best)) best_cost = cost;
  }
  return best;
}

}  // namespace bsparse
