#include "cc/plan/dw_tiles.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <numeric>
#include <utility>

#include "cuda/bsparse_cuda.h"

namespace bsparse {
namespace {

constexpr int32_t kWarps = BSPARSE_DW_TILE_WARPS;
constexpr int32_t kMaxChunkBlocks = 8;  // side by side: of 8 features
constexpr int32_t kMaxStrip = 32;       // chunks; as bits of a mask

// Cycles of an H100's multiprocessor for 16 batch entries, reckoned. A chunk has 2 KB of them: from L2, which
// gives a multiprocessor 33 bytes a cycle, and into shared memory, which takes 128. Operands of a
// slot are read from there: in 16 bit, whose stages have 32 entries, some 600 bytes, 1700 where a
// tile has few and large ones.
constexpr double kReadChunk = 62, kTakeChunk = 16, kStep = 50;
double SlotCycles(const DwTileTarget& target) {
  const bool large = target.blocks / target.slot_blocks <= 64;
  return (large ? 14 : 5.2) * 32 / target.depth;
}

// What is not hidden of the shorter of the two. A stage of the ring is on its way for so many cycles
// besides, then copied, then used.
constexpr double kExposed = 0.1, kLatency = 900;
// Partial sums are written and read again at so many bytes a cycle of the device, by one more kernel.
constexpr double kPartialRate = 1700, kReduceLaunch = 5000;

// The shares of a CTA's slots that tiles may fill: tiles of another size may leave fewer
// multiprocessors without work. Layouts that make very many tiles need no choice.
constexpr double kFills[] = {1.0,  0.95, 0.9, 0.85, 0.8, 0.75, 0.7,
                             0.65, 0.6,  0.5, 0.4,  0.3, 0.2,  0.1};
constexpr int64_t kManyPatches = int64_t{1} << 18;

// A strip this much dearer for each of its chunks than the best before it is as tall as worth trying.
constexpr double kTooDear = 1.6;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Where a strip of input chunks crosses an output chunk.
struct Patch {
  int32_t chunk;   // of outputs
  uint32_t inputs;  // chunks of the strip that have a block here, as bits
  std::array<uint16_t, kMaxChunkBlocks> blocks;  // of each output column

  int32_t Slots(int32_t slot_blocks) const {
    int32_t slots = 0;
    for (const uint16_t count : blocks) slots += (count + slot_blocks - 1) / slot_blocks;
    return slots;
  }
};
using Strip = std::vector<Patch>;  // by rising output chunk

// The strips of one chunk of inputs each.
std::vector<Strip> FindPatches(const BlockIndex& index, int32_t chunk_blocks) {
  std::vector<Strip> strips(CeilDiv(index.in_blocks(), chunk_blocks));
  for (int32_t k = 0; k < index.out_blocks(); ++k) {
    for (int64_t e = index.offsets()[k]; e < index.offsets()[k + 1]; ++e) {
      Strip& strip = strips[index.entries()[e].in_block / chunk_blocks];
      const int32_t chunk = k / chunk_blocks;
      if (strip.empty() || strip.back().chunk != chunk) strip.push_back({chunk, 1, {}});
      ++strip.back().blocks[k % chunk_blocks];
    }
  }
  return strips;
}

// A strip with one more chunk of inputs, its number `place`.
Strip Joined(const Strip& strip, const Strip& more, int32_t place) {
  Strip joined;
  joined.reserve(strip.size() + more.size());
  size_t s = 0, m = 0;
  while (s < strip.size() || m < more.size()) {
    const bool only_old =
        m == more.size() || (s < strip.size() && strip[s].chunk < more[m].chunk);
    if (only_old) {
      joined.push_back(strip[s++]);
      continue;
    }
    Patch patch = more[m];
    patch.inputs <<= place;
    if (s < strip.size() && strip[s].chunk == patch.chunk) {
      patch.inputs |= strip[s].inputs;
      for (int32_t c = 0; c < kMaxChunkBlocks; ++c) patch.blocks[c] += strip[s].blocks[c];
      ++s;
    }
    ++m;
    joined.push_back(patch);
  }
  return joined;
}

// Neighbouring output chunks of a strip. A chunk with more blocks than a tile holds has tiles of its own:
// then it is the only one, and this is the number `piece` of `pieces`.
struct Range {
  size_t first, end;  // of the strip's patches
  int32_t slots;
  int32_t piece = 0, pieces = 1;
};

int32_t Chunks(uint32_t inputs) { return __builtin_popcount(inputs); }

// What limits the tiles of a strip.
struct TileLimit {
  int32_t slots;
  int32_t outputs;  // chunks
};

class StripCut {
 public:
  // `slots`: of each patch.
  StripCut(const std::vector<int32_t>& slots, const DwTileTarget& target, TileLimit limit) {
    const int64_t total = std::accumulate(slots.begin(), slots.end(), int64_t{0});
    // So many tiles that they come out even; all CTAs of the last item have one, if it can be.
    int64_t wanted = std::max({int64_t{1}, CeilDiv(total, limit.slots),
                               CeilDiv(static_cast<int64_t>(slots.size()), limit.outputs)});
    for (;;) {
      wanted = CeilDiv(wanted, target.ctas) * target.ctas;
      Sweep(slots, limit, total, wanted);
      const auto count = static_cast<int64_t>(ranges_.size());
      if (count <= wanted || tries_ == 0) return;
      --tries_;
      wanted = std::max(wanted + 1, std::min(count, wanted + target.ctas));
    }
  }

  const std::vector<Range>& ranges() const { return ranges_; }

 private:
  void Sweep(const std::vector<int32_t>& slots, TileLimit limit, int64_t total, int64_t wanted) {
    ranges_.clear();
    int64_t before = 0;  // slots of the tiles before
    int64_t fair = total / wanted;  // with the open one's
    Range open{0, 0, 0};
    const auto close = [&](size_t next) {
      if (open.end > open.first) ranges_.push_back(open);
      before += open.slots;
      open = {next, next, 0};
      fair = total * (static_cast<int64_t>(ranges_.size()) + 1) / wanted;
    };
    for (size_t p = 0; p < slots.size(); ++p) {
      const int32_t more = slots[p];
      if (more > limit.slots) {
        close(p);
        const auto pieces = static_cast<int32_t>(CeilDiv(more, limit.slots));
        for (int32_t piece = 0; piece < pieces; ++piece) {
          ranges_.push_back({p, p + 1, (more + pieces - 1) / pieces, piece, pieces});
        }
        before += more;
        close(p + 1);
        continue;
      }
      const bool full = open.slots + more > limit.slots ||
                        static_cast<int32_t>(open.end - open.first) == limit.outputs;
      const bool enough = open.slots > 0 && fair < total &&
                          before + open.slots + more / 2 > fair;
      if (full || enough) close(p);
      open.slots += more;
      open.end = p + 1;
    }
    close(slots.size());
  }

  int tries_ = 2;
  std::vector<Range> ranges_;
};

// Of an item with so many chunks of inputs: that of its slowest CTA.
double ItemCost(const Range* first, const Range* end, int32_t inputs, const DwTileTarget& target) {
  double cost = 0;
  for (const Range* range = first; range < end; ++range) {
    const auto outputs = static_cast<int32_t>(range->end - range->first);
    const int32_t chunks = inputs + outputs;
    const double read = kReadChunk * (static_cast<double>(inputs) / target.ctas + outputs);
    const double warps = kWarps * CeilDiv(range->slots, kWarps);
    const double work = kTakeChunk * chunks + SlotCycles(target) * warps;
    const int32_t stages = 2 * target.chunks / chunks;
    const double turn = (kLatency * 16 / target.depth + read + work) / stages;
    cost = std::max({cost, turn, std::max(read, work) + kExposed * std::min(read, work) + kStep});
  }
  return cost;
}

uint32_t InputsOf(const Strip& strip, size_t first, size_t end) {
  uint32_t inputs = 0;
  for (size_t p = first; p < end; ++p) inputs |= strip[p].inputs;
  return inputs;
}

// Input chunks [first, first + height).
struct Interval {
  int32_t first, height;
};

// A way to cut the layout, and what it costs.
struct Candidate {
  std::vector<Interval> strips;
  int64_t items = 0;
  double total = 0;    // of all items
  double largest = 0;  // of an item
};

// The strips of least cost: best[b], for each fill, of what lies above chunk b.
std::vector<Candidate> FindStrips(const std::vector<Strip>& rows, const DwTileTarget& target,
                                  const std::vector<int32_t>& limits) {
  struct Best {
    double total = std::numeric_limits<double>::infinity();
    double largest = 0;
    int64_t items = 0;
    int32_t height = 0;
  };
  const auto count = static_cast<int32_t>(rows.size());
  const size_t fills = limits.size();
  std::vector<std::vector<Best>> best(count + 1, std::vector<Best>(fills));
  for (Best& nothing : best[0]) nothing.total = 0;
  std::vector<int32_t> slots;
  for (int32_t first = 0; first < count; ++first) {
    Strip strip;
    double cheapest = std::numeric_limits<double>::infinity();
    for (int32_t height = 1; height <= kMaxStrip && first + height <= count; ++height) {
      strip = Joined(strip, rows[first + height - 1], height - 1);
      const int32_t inputs = Chunks(InputsOf(strip, 0, strip.size()));
      if (inputs >= target.chunks) break;
      slots.clear();
      for (const Patch& patch : strip) slots.push_back(patch.Slots(target.slot_blocks));
      double dearness = std::numeric_limits<double>::infinity();
      for (size_t f = 0; f < fills; ++f) {
        const Best& above = best[first][f];
        Best here{above.total, above.largest, above.items, height};
        const StripCut cut(slots, target, {limits[f], target.chunks - inputs});
        const auto& ranges = cut.ranges();
        for (size_t r = 0; r < ranges.size(); r += target.ctas) {
          const size_t end = std::min(ranges.size(), r + target.ctas);
          const double cost =
              ItemCost(&ranges[r], ranges.data() + end,
                       Chunks(InputsOf(strip, ranges[r].first, ranges[end - 1].end)), target);
          here.total += cost;
          here.largest = std::max(here.largest, cost);
          ++here.items;
        }
        dearness = std::min(dearness, (here.total - above.total) / std::max(1, inputs));
        Best& to = best[first + height][f];
        if (here.total < to.total) to = here;
      }
      cheapest = std::min(cheapest, dearness);
      if (dearness > kTooDear * cheapest) break;
    }
  }
  std::vector<Candidate> candidates(fills);
  for (size_t f = 0; f < fills; ++f) {
    Candidate& candidate = candidates[f];
    const Best& all = best[count][f];
    candidate.items = all.items;
    candidate.total = all.total;
    candidate.largest = all.largest;
    for (int32_t end = count; end > 0; end -= best[end][f].height) {
      candidate.strips.push_back({end - best[end][f].height, best[end][f].height});
    }
    std::reverse(candidate.strips.begin(), candidate.strips.end());
  }
  return candidates;
}

// Which items take the whole batch, and what the others cut it into.
struct Rounds {
  int64_t whole = 0;
  int64_t splits = 1;
  double cycles = std::numeric_limits<double>::infinity();  // that the device takes
};

// Whole items fill the device as often as they can; the last round is of items that are split until
// they fill it, too. Partial sums are written and read again, holes among them not.
Rounds FindRounds(const Candidate& candidate, int64_t num_blocks, const DwTileTarget& target) {
  const double mean = candidate.total / candidate.items;
  const double features = 2.0 * target.depth / target.chunk_blocks;
  const double partial_cycles =
      static_cast<double>(num_blocks) / candidate.items * features * features * 8 / kPartialRate;
  Rounds best;
  const int64_t full = candidate.items / target.slots;
  for (int64_t rounds = full; rounds >= std::max<int64_t>(0, full - 2); --rounds) {
    const int64_t rest = candidate.items - rounds * target.slots;
    for (int64_t splits = 1; splits <= std::max<int64_t>(1, target.max_splits); ++splits) {
      const auto last = static_cast<double>(CeilDiv(rest * splits, target.slots));
      const double all = static_cast<double>(rounds) + last / splits;
      const double steps = (all * mean + (candidate.largest - mean)) * target.steps;
      const double partials =
          splits == 1 ? 0 : kReduceLaunch + static_cast<double>(splits * rest) * partial_cycles;
      if (steps + partials < best.cycles) {
        best = {splits == 1 ? candidate.items : rounds * target.slots, splits, steps + partials};
      }
    }
  }
  return best;
}

// A stored block, and where it lies.
struct Block {
  int32_t in_block, out_block, weight_block;
};

// Those of an output chunk that lie in a strip, so that neighbours share what a warp keeps: blocks that
// are alone in a slot by input, others by output.
void AppendBlocks(const BlockIndex& index, const DwTileTarget& target, Interval strip,
                  int32_t chunk, std::vector<Block>* blocks) {
  const int32_t size = target.chunk_blocks;
  const int32_t end = std::min((chunk + 1) * size, index.out_blocks());
  for (int32_t k = chunk * size; k < end; ++k) {
    const auto begin = index.entries().begin();
    const auto first = std::lower_bound(
        begin + index.offsets()[k], begin + index.offsets()[k + 1], strip.first * size,
        [](const BlockIndex::Entry& entry, int32_t block) { return entry.in_block < block; });
    for (auto e = first; e != begin + index.offsets()[k + 1] &&
                         e->in_block < (strip.first + strip.height) * size;
         ++e) {
      blocks->push_back({e->in_block, k, e->weight_block});
    }
  }
}

constexpr int32_t kNone = -1;

// In slots of `slot_blocks`, of one output column each; what is missing has no weight block.
std::vector<Block> InSlots(std::vector<Block> blocks, int32_t slot_blocks) {
  if (slot_blocks == 1) {
    std::stable_sort(blocks.begin(), blocks.end(),
                     [](const Block& a, const Block& b) { return a.in_block < b.in_block; });
    return blocks;
  }
  std::vector<Block> slots;
  for (const Block& block : blocks) {
    const bool starts = slots.size() % slot_blocks == 0;
    if (!starts && slots.back().out_block != block.out_block) {
      while (slots.size() % slot_blocks != 0) {
        slots.push_back({slots.back().in_block, slots.back().out_block, kNone});
      }
    }
    slots.push_back(block);
  }
  while (slots.size() % slot_blocks != 0) {
    slots.push_back({slots.back().in_block, slots.back().out_block, kNone});
  }
  return slots;
}

struct Cta {
  std::vector<int32_t> outputs;  // chunks
  std::vector<Block> slots;
};

struct Item {
  std::vector<int32_t> inputs;  // chunks
  std::vector<Cta> ctas;
  double cost;
};

Item MakeItem(const BlockIndex& index, const DwTileTarget& target, Interval interval,
              const Strip& strip, const Range* first, const Range* end) {
  Item item;
  const uint32_t inputs = InputsOf(strip, first->first, (end - 1)->end);
  item.cost = ItemCost(first, end, Chunks(inputs), target);
  for (int32_t c = 0; c < interval.height; ++c) {
    if ((inputs >> c & 1) != 0) item.inputs.push_back(interval.first + c);
  }
  item.ctas.resize(target.ctas);
  for (const Range* range = first; range < end; ++range) {
    Cta& cta = item.ctas[range - first];
    std::vector<Block> blocks;
    for (size_t p = range->first; p < range->end; ++p) {
      cta.outputs.push_back(strip[p].chunk);
      AppendBlocks(index, target, interval, strip[p].chunk, &blocks);
    }
    cta.slots = InSlots(std::move(blocks), target.slot_blocks);
    if (range->pieces > 1) {
      const int64_t slots = static_cast<int64_t>(cta.slots.size()) / target.slot_blocks;
      const auto place = [&](int64_t piece) {
        return cta.slots.begin() + slots * piece / range->pieces * target.slot_blocks;
      };
      cta.slots = std::vector<Block>(place(range->piece), place(range->piece + 1));
    }
  }
  return item;
}

std::vector<Item> MakeItems(const BlockIndex& index, const std::vector<Strip>& rows,
                            const DwTileTarget& target, const Candidate& candidate,
                            int32_t limit) {
  std::vector<Item> items;
  for (const Interval& interval : candidate.strips) {
    Strip strip;
    for (int32_t c = 0; c < interval.height; ++c) {
      strip = Joined(strip, rows[interval.first + c], c);
    }
    std::vector<int32_t> slots;
    for (const Patch& patch : strip) slots.push_back(patch.Slots(target.slot_blocks));
    const int32_t inputs = Chunks(InputsOf(strip, 0, strip.size()));
    const StripCut cut(slots, target, {limit, target.chunks - inputs});
    const auto& ranges = cut.ranges();
    for (size_t r = 0; r < ranges.size(); r += target.ctas) {
      const size_t end = std::min(ranges.size(), r + target.ctas);
      items.push_back(
          MakeItem(index, target, interval, strip, &ranges[r], ranges.data() + end));
    }
  }
  return items;
}

// The place of a block among the blocks of a CTA's chunks.
int32_t PlaceOf(int32_t block, const std::vector<int32_t>& chunks, int32_t before,
                int32_t chunk_blocks) {
  const auto found = std::lower_bound(chunks.begin(), chunks.end(), block / chunk_blocks);
  return static_cast<int32_t>(before + (found - chunks.begin())) * chunk_blocks +
         block % chunk_blocks;
}

void Write(const Item& item, const DwTileTarget& target, DwTiles* out) {
  const auto inputs = static_cast<int32_t>(item.inputs.size());
  for (const Cta& cta : item.ctas) {
    const size_t row_end = out->items.size() + 2 + out->chunks;
    out->items.push_back(inputs);
    out->items.push_back(static_cast<int32_t>(cta.outputs.size()));
    out->items.insert(out->items.end(), item.inputs.begin(), item.inputs.end());
    out->items.insert(out->items.end(), cta.outputs.begin(), cta.outputs.end());
    out->items.resize(row_end, -1);

    const int32_t per_slot = target.slot_blocks;
    const int64_t slots = static_cast<int64_t>(cta.slots.size()) / per_slot;
    for (int32_t warp = 0; warp < kWarps; ++warp) {
      const size_t warp_end = out->blocks.size() + 3 * size_t(target.blocks / kWarps);
      for (int64_t b = slots * warp / kWarps * per_slot;
           b < slots * (warp + 1) / kWarps * per_slot; ++b) {
        const Block& block = cta.slots[b];
        out->blocks.push_back(PlaceOf(block.in_block, item.inputs, 0, target.chunk_blocks));
        out->blocks.push_back(
            PlaceOf(block.out_block, cta.outputs, inputs, target.chunk_blocks));
        out->blocks.push_back(block.weight_block);
      }
      out->blocks.resize(warp_end, kNone);
    }
  }
}

DwTiles CutCells(const BlockIndex& index, const DwTileTarget& target) {
  DwTiles tiles;
  if (index.num_blocks() == 0) return tiles;
  const std::vector<Strip> rows = FindPatches(index, target.chunk_blocks);
  int64_t patches = 0;
  for (const Strip& strip : rows) patches += static_cast<int64_t>(strip.size());
  const int32_t slots = target.blocks / target.slot_blocks;
  std::vector<int32_t> limits;
  for (const double fill : kFills) {
    limits.push_back(std::max(1, static_cast<int32_t>(fill * slots)));
    if (patches > kManyPatches) break;
  }
  const std::vector<Candidate> candidates = FindStrips(rows, target, limits);
  size_t best = 0;
  Rounds rounds;
  for (size_t f = 0; f < limits.size(); ++f) {
    const Rounds found = FindRounds(candidates[f], index.num_blocks(), target);
    if (found.cycles < rounds.cycles) {
      rounds = found;
      best = f;
    }
  }
  tiles.batch_splits = static_cast<int32_t>(rounds.splits);
  tiles.whole_items = static_cast<int32_t>(rounds.whole);
  std::vector<Item> items = MakeItems(index, rows, target, candidates[best], limits[best]);
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return a.cost > b.cost; });
  tiles.num_items = static_cast<int32_t>(items.size());
  for (const Item& item : items) {
    for (const Cta& cta : item.ctas) {
      tiles.chunks = std::max(
          tiles.chunks, static_cast<int32_t>(item.inputs.size() + cta.outputs.size()));
    }
  }
  for (const Item& item : items) Write(item, target, &tiles);
  return tiles;
}

}  // namespace

DwTiles CutIntoDwTiles(const BlockIndex& index, const DwTileTarget& target) {
  return target.block_cells == 1 ? CutCells(index, target)
                                 : CutCells(CellsOf(index, target.block_cells), target);
}

}  // namespace bsparse
