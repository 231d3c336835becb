// In which order output tiles are computed.
#ifndef BSPARSE_CUDA_RASTERISE_H_
#define BSPARSE_CUDA_RASTERISE_H_

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

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

  uint32_t num_items;
  uint32_t batch_tiles;
  uint32_t batch_group;  // batch tiles whose x shares the L2 cache

  // `tile_bytes`: of x, all features of a batch tile; `group_bytes`: of a group.
  static Raster of(int64_t num_items, int64_t batch_tiles, int64_t tile_bytes,
                   int64_t group_bytes) {
    const int64_t group = std::clamp<int64_t>(group_bytes / tile_bytes, 1, kMaxGroup);
    return {static_cast<uint32_t>(num_items), static_cast<uint32_t>(batch_tiles),
            static_cast<uint32_t>(std::min(group, batch_tiles))};
  }

  __device__ __forceinline__ TilePlace place(uint32_t tile) const {
    const uint32_t per_group = num_items * batch_group;
    const uint32_t group = tile / per_group;
    uint32_t rest = tile % per_group;
    const uint32_t first_tile = group * batch_group;
    const uint32_t tiles = min(batch_group, batch_tiles - first_tile);
    const uint32_t chunk = rest / (kItemChunk * tiles);
    rest -= chunk * kItemChunk * tiles;
    const uint32_t items = min(kItemChunk, num_items - chunk * kItemChunk);
    return {chunk * kItemChunk + rest % items, first_tile + rest / items};
  }
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_RASTERISE_H_
