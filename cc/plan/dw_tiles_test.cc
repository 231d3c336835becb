// The promises of tiles of the layout: every block once, in a CTA that has its chunks; what neighbours
// share; as many blocks and chunks as fit.

#include "cc/plan/dw_tiles.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cc/plan/block_index.h"
#include "cc/plan/layout_testing.h"
#include "cc/plan/matmul_plan.h"
#include "cuda/bsparse_cuda.h"
#include "gtest/gtest.h"

namespace bsparse {
namespace {

using Stored = std::function<bool(int32_t c, int32_t k)>;

// As the kernels say it of 16-bit elements, or of TF32.
DwTileTarget Target(int32_t block_size, int32_t ctas, bool tf32 = false) {
  const int32_t cell = std::min(block_size, 32);
  DwTileTarget target{};
  target.blocks = cell == 8 ? 512 : cell == 16 ? 192 : 48;
  target.block_cells = block_size / cell;
  target.slot_blocks = block_size == 8 ? 2 : 1;
  target.chunk_blocks = (tf32 ? 32 : 64) / cell;
  target.chunks = tf32 ? 56 : 28;
  target.ctas = ctas;
  target.depth = tf32 ? 16 : 32;
  target.slots = 132 / ctas;
  target.steps = 512;
  target.max_splits = 64;
  return target;
}

// Checks all that a kernel relies on.
void CheckTiles(const TestLayout& layout, const DwTileTarget& target) {
  const BlockIndex index(layout.view(), /*transpose=*/false);
  const DwTiles tiles = CutIntoDwTiles(index, target);
  const int32_t width = 2 + tiles.chunks, size = target.chunk_blocks;
  const int32_t cells = target.block_cells;
  const int64_t ctas = int64_t{tiles.num_items} * target.ctas;
  ASSERT_EQ(static_cast<int64_t>(tiles.items.size()), ctas * width);
  ASSERT_EQ(static_cast<int64_t>(tiles.blocks.size()), ctas * target.blocks * 3);
  EXPECT_LE(tiles.chunks, target.chunks);
  EXPECT_GE(tiles.whole_items, 0);
  EXPECT_LE(tiles.whole_items, tiles.num_items);
  if (tiles.batch_splits == 1) {
    EXPECT_EQ(tiles.whole_items, tiles.num_items);
  }
  std::set<int32_t> seen;
  const int32_t warp_blocks = target.blocks / BSPARSE_DW_TILE_WARPS;
  for (int64_t cta = 0; cta < ctas; ++cta) {
    const int32_t* const row = tiles.items.data() + cta * width;
    const int32_t* const first_row = tiles.items.data() + cta / target.ctas * target.ctas * width;
    const int32_t inputs = row[0], chunks = row[0] + row[1];
    EXPECT_GE(inputs, 1);
    EXPECT_LE(chunks, tiles.chunks);
    EXPECT_TRUE(std::equal(row + 2, row + 2 + inputs, first_row + 2));
    EXPECT_EQ(inputs, first_row[0]);
    std::vector<bool> used(chunks, false);
    int32_t least = warp_blocks, most = 0;
    for (int32_t warp = 0; warp < BSPARSE_DW_TILE_WARPS; ++warp) {
      const int32_t* const blocks =
          tiles.blocks.data() + 3 * (cta * target.blocks + warp * warp_blocks);
      int32_t count = 0;
      for (int32_t b = 0; b < warp_blocks; ++b) {
        const int32_t* const block = blocks + 3 * b;
        if (block[1] < 0) {
          EXPECT_EQ(block[0], -1);
          EXPECT_EQ(block[2], -1);
          continue;
        }
        EXPECT_EQ(count++, b);  // filling comes last
        ASSERT_LT(block[0], inputs * size);
        ASSERT_GE(block[1], inputs * size);
        ASSERT_LT(block[1], chunks * size);
        if (b % target.slot_blocks != 0) {
          EXPECT_EQ(block[1], block[1 - 3]);
          EXPECT_TRUE(block[2] >= 0 || block[0] == block[-3]);
        }
        if (block[2] < 0) continue;
        EXPECT_TRUE(seen.insert(block[2]).second);
        used[block[0] / size] = used[block[1] / size] = true;
        const int32_t c = row[2 + block[0] / size] * size + block[0] % size;
        const int32_t k = row[2 + block[1] / size] * size + block[1] % size;
        const int32_t weight = block[2] / (cells * cells), cell = block[2] % (cells * cells);
        EXPECT_EQ(c, layout.coords[2 * weight] * cells + cell / cells);
        EXPECT_EQ(k, layout.coords[2 * weight + 1] * cells + cell % cells);
      }
      EXPECT_EQ(count % target.slot_blocks, 0);
      least = std::min(least, count / target.slot_blocks);
      most = std::max(most, count / target.slot_blocks);
    }
    EXPECT_LE(most - least, 1);
    for (int32_t chunk = inputs; chunk < chunks; ++chunk) EXPECT_TRUE(used[chunk]);
  }
  EXPECT_EQ(static_cast<int64_t>(seen.size()), index.num_blocks() * cells * cells);
}

void CheckTilesOfLayouts(const DwTileTarget& target) {
  // As many cells, whatever a block has of them.
  const auto check = [&](int32_t in_blocks, int32_t out_blocks, const Stored& stored) {
    const int32_t cells = target.block_cells;
    CheckTiles(LayoutWhere((in_blocks + cells - 1) / cells, (out_blocks + cells - 1) / cells, stored),
               target);
  };
  for (const double density : {0.003, 0.05, 0.4, 1.0}) {
    SCOPED_TRACE("density " + std::to_string(density));
    std::mt19937 random(1);
    check(150, 117, [&](int32_t, int32_t) {
      return std::uniform_real_distribution<>(0, 1)(random) < density;
    });
  }
  check(130, 130, [](int32_t c, int32_t k) { return std::abs(c - k) < 3; });
  check(96, 96, [](int32_t c, int32_t k) { return c / 12 == k / 12; });
  // Hubs, and rows and columns without a block.
  check(200, 90, [](int32_t c, int32_t k) {
    return k == 17 || c == 40 || (c > 120 && k > 60 && c % 7 == k % 5);
  });
  check(1, 700, [](int32_t, int32_t) { return true; });
  check(700, 1, [](int32_t, int32_t) { return true; });
  check(1, 1, [](int32_t, int32_t) { return true; });
  check(60, 60, [](int32_t c, int32_t k) { return c + k == 90; });
}

TEST(DwTiles, HoldEveryBlockOnceOfAnyLayout) {
  for (const int32_t ctas : {1, 2, 4}) {
    for (const int32_t block_size : {8, 16, 32}) {
      SCOPED_TRACE(std::to_string(block_size) + ", CTAs " + std::to_string(ctas));
      CheckTilesOfLayouts(Target(block_size, ctas));
    }
    for (const int32_t block_size : {8, 16, 32, 64, 128}) {
      SCOPED_TRACE(std::to_string(block_size) + " in TF32, CTAs " + std::to_string(ctas));
      CheckTilesOfLayouts(Target(block_size, ctas, /*tf32=*/true));
    }
  }
}

TEST(DwTiles, OfNoBlocksAreNone) {
  const BlockIndex index(RandomLayout(9, 9, 0.0, 1).view(), /*transpose=*/false);
  EXPECT_EQ(CutIntoDwTiles(index, Target(16, 2)).num_items, 0);
}

// Chunks that multiprocessors ask for, all in all: what an input chunk that several share costs each.
double ChunkLoads(const DwTiles& tiles, int32_t ctas) {
  double loads = 0;
  for (size_t row = 0; row < tiles.items.size(); row += 2 + tiles.chunks) {
    loads += static_cast<double>(tiles.items[row]) / ctas + tiles.items[row + 1];
  }
  return loads;
}

TEST(DwTiles, LoadFewChunks) {
  // 8192 x 8192 in blocks of 16: 26214 blocks, 200 for each multiprocessor. A tile of 10.7 x 10.7
  // chunks has 183 of them.
  const BlockIndex index(RandomLayout(512, 512, 0.1, 1).view(), /*transpose=*/false);
  const DwTiles alone = CutIntoDwTiles(index, Target(16, 1));
  EXPECT_LT(ChunkLoads(alone, 1), 1.15 * 26214 / 183 * 2 * 10.7);
  EXPECT_LT(ChunkLoads(CutIntoDwTiles(index, Target(16, 2)), 2), 0.85 * ChunkLoads(alone, 1));
  // All multiprocessors have work: what does not fill them is split.
  EXPECT_EQ(alone.whole_items % 132, 0);
  EXPECT_GT(alone.batch_splits, 1);
}

TEST(DwTiles, FewTilesAreSplitAlongTheBatch) {
  const BlockIndex index(RandomLayout(20, 20, 0.2, 1).view(), /*transpose=*/false);
  const DwTiles tiles = CutIntoDwTiles(index, Target(16, 2));
  EXPECT_GE(tiles.num_items * tiles.batch_splits, 33);
  EXPECT_EQ(tiles.whole_items, 0);
}

TEST(MatmulDwPlan, OfTilesHasTheirTables) {
  PlanTarget target{/*sm_count=*/132, /*batch_tile=*/32};
  target.kernel = BSPARSE_SM90_DW_TILES;
  target.columns = 2 * 192;
  target.cta_columns = 192;
  target.chunk_blocks = 4;
  target.chunks = 28;
  const BlockIndex index(RandomLayout(100, 100, 0.1, 1).view(), /*transpose=*/false);
  const MatmulDwPlan plan(index, /*batch=*/8192, target);
  EXPECT_EQ(plan.ctas(), 2);
  EXPECT_EQ(plan.blocks_offset(), int64_t{plan.num_items()} * 2 * (2 + plan.chunks()));
  EXPECT_EQ(static_cast<int64_t>(plan.tables().size()),
            plan.blocks_offset() + int64_t{plan.num_items()} * 2 * 192 * 3);
  const BlockIndex nothing(RandomLayout(9, 9, 0.0, 1).view(), /*transpose=*/false);
  EXPECT_EQ(MatmulDwPlan(nothing, 0, target).num_items(), 0);
}

}  // namespace
}  // namespace bsparse
