#include "cc/plan/stream_cut.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <queue>
#include <utility>

namespace bsparse {
namespace {

// The kernel that adds partials takes about as long as a list takes for so many entries.
constexpr int64_t kCostOfSplits = 16;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Some or all entries of a column.
struct Piece {
  int32_t column;
  int64_t first;
  int64_t end;

  // A column without blocks takes time too: its outputs are written.
  int64_t length() const { return std::max<int64_t>(1, end - first); }
};

std::vector<Piece> CutColumns(const BlockIndex& index, int64_t longest) {
  std::vector<Piece> cut;
  for (int32_t k = 0; k < index.out_blocks(); ++k) {
    const int64_t first = index.offsets()[k];
    const int64_t length = index.offsets()[k + 1] - first;
    const int64_t pieces = std::max<int64_t>(1, CeilDiv(length, longest));
    for (int64_t piece = 0; piece < pieces; ++piece) {
      cut.push_back({k, first + length * piece / pieces, first + length * (piece + 1) / pieces});
    }
  }
  return cut;
}

struct Lists {
  std::vector<std::vector<Piece>> pieces;
  int64_t longest = 0;
};

// Longest first, each to the list that is shortest (Graham, "Bounds on multiprocessing timing
// anomalies", 1969).
Lists Deal(std::vector<Piece> pieces, int64_t count) {
  std::stable_sort(pieces.begin(), pieces.end(),
                   [](const Piece& a, const Piece& b) { return a.length() > b.length(); });
  using Load = std::pair<int64_t, int64_t>;  // entries, list
  std::priority_queue<Load, std::vector<Load>, std::greater<Load>> shortest;
  for (int64_t list = 0; list < count; ++list) shortest.push({0, list});
  Lists lists;
  lists.pieces.resize(count);
  for (const Piece& piece : pieces) {
    auto [load, list] = shortest.top();
    shortest.pop();
    lists.pieces[list].push_back(piece);
    load += piece.length();
    lists.longest = std::max(lists.longest, load);
    shortest.push({load, list});
  }
  return lists;
}

}  // namespace

StreamCut CutIntoStreams(const BlockIndex& index, int64_t lists) {
  lists = std::clamp<int64_t>(lists, 1, std::max<int64_t>(1, index.num_blocks()));
  const int64_t mean = std::max<int64_t>(1, CeilDiv(index.num_blocks(), lists));
  Lists best;
  int64_t best_cost = std::numeric_limits<int64_t>::max();
  for (const int64_t limit : {std::numeric_limits<int64_t>::max() / 2, mean, CeilDiv(mean, 2),
                              CeilDiv(mean, 4)}) {
    std::vector<Piece> pieces = CutColumns(index, limit);
    const bool cuts = static_cast<int64_t>(pieces.size()) > index.out_blocks();
    Lists dealt = Deal(std::move(pieces), lists);
    const int64_t cost = dealt.longest + (cuts ? kCostOfSplits : 0);
    if (cost >= best_cost) continue;
    best_cost = cost;
    best = std::move(dealt);
  }
  best.pieces.erase(std::remove_if(best.pieces.begin(), best.pieces.end(),
                                   [](const std::vector<Piece>& list) { return list.empty(); }),
                    best.pieces.end());

  // Pieces that meet on a list are one again.
  std::vector<int32_t> shares(index.out_blocks(), 0);  // lists that a column is on
  for (std::vector<Piece>& list : best.pieces) {
    std::sort(list.begin(), list.end(), [](const Piece& a, const Piece& b) {
      return std::pair(a.column, a.first) < std::pair(b.column, b.first);
    });
    for (size_t i = 0; i < list.size(); ++i) {
      if (i == 0 || list[i].column != list[i - 1].column) ++shares[list[i].column];
    }
  }
  StreamCut out;
  std::vector<int32_t> next_partial(index.out_blocks(), -1);
  for (int32_t k = 0; k < index.out_blocks(); ++k) {
    if (shares[k] < 2) continue;
    next_partial[k] = out.num_partials;
    out.splits.push_back({k, out.num_partials, shares[k]});
    out.num_partials += shares[k];
  }
  out.lists = static_cast<int32_t>(best.pieces.size());
  out.length = static_cast<int32_t>(best.longest);
  out.entries.assign(out.lists * best.longest, {-1, -1, -1, -1});
  for (int64_t list = 0; list < out.lists; ++list) {
    StreamCut::Entry* to = out.entries.data() + list * best.longest;
    int32_t column = -1, partial = -1;
    for (const Piece& piece : best.pieces[list]) {
      if (piece.column != column) {
        column = piece.column;
        partial = next_partial[column] < 0 ? -1 : next_partial[column]++;
      }
      if (piece.first == piece.end) *to++ = {column, -1, -1, partial};
      for (int64_t e = piece.first; e < piece.end; ++e) {
        const BlockIndex::Entry& entry = index.entries()[e];
        *to++ = {column, entry.in_block, entry.weight_block, partial};
      }
    }
  }
  return out;
}

}  // namespace bsparse
