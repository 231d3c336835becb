// In which order output tiles are computed.
#ifndef BSPARSE_CUDA_RASTERISE_H_
#define BSPARSE_CUDA_RASTERISE_H_

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "cuda/divider.h"

namespace bsparse {

struct TilePlace {
  uint32_t item;
  uint32_t batch_tile;
};

// Groups of batch tiles, in them chunks of items, in them batch tiles, in them items. Neighbours
// then read the same x at about the same time, which L2 merges, and a group reads each weight
// block from DRAM once while its x stays in L2.
struct Raster {
  static constexpr uint32_t kItemChunk = 16;
  static constexpr int64_t kMaxGroup = 64;

  uint32_t batch_group;  // batch tiles whose x shares the L2 cache
  uint32_t full_groups;
  uint32_t full_chunks;
  // The last group has fewer batch tiles than others, or none, and the last chunk fewer items.
  Divider tiles_of_group;
  Divider tiles_of_chunk, tiles_of_chunk_in_last_group;
  Divider chunk_items, last_chunk_items;

  // `tile_bytes`: of x, all features of a batch tile; `group_bytes`: of a group.
  static Raster of(int64_t num_items, int64_t batch_tiles, int64_t tile_bytes,
                   int64_t group_bytes) {
    const int64_t wanted = std::clamp<int64_t>(group_bytes / tile_bytes, 1, kMaxGroup);
    const auto items = static_cast<uint32_t>(num_items);
    const auto tiles = static_cast<uint32_t>(batch_tiles);
    const auto group = static_cast<uint32_t>(std::min(wanted, batch_tiles));
    const auto divider = [](uint32_t divisor) { return Divider(std::max(divisor, 1u)); };
    return {group,
            tiles / group,
            items / kItemChunk,
            divider(items * group),
            divider(kItemChunk * group),
            divider(kItemChunk * (tiles % group)),
            divider(kItemChunk),
            divider(items % kItemChunk)};
  }

  __device__ __forceinline__ TilePlace place(uint32_t tile) const {
    const uint32_t group = tiles_of_group.quotient(tile);
    uint32_t rest = tiles_of_group.remainder(tile, group);
    const Divider& of_chunk = group < full_groups ? tiles_of_chunk : tiles_of_chunk_in_last_group;
    const uint32_t chunk = of_chunk.quotient(rest);
    rest = of_chunk.remainder(rest, chunk);
    const Divider& of_batch_tile = chunk < full_chunks ? chunk_items : last_chunk_items;
    const uint32_t batch_tile = of_batch_tile.quotient(rest);
    return {chunk * kItemChunk + of_batch_tile.remainder(rest, batch_tile),
            group * batch_group + batch_tile};
  }
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_RASTERISE_H_
