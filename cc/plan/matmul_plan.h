// Cuts the work of y = x W into items for a GPU: about equal, heaviest first, hub columns split.
#ifndef BSPARSE_CC_PLAN_MATMUL_PLAN_H_
#define BSPARSE_CC_PLAN_MATMUL_PLAN_H_

#include <cstdint>
#include <tuple>
#include <vector>

#include "cc/plan/block_index.h"
#include "cc/plan/packed_records.h"

namespace bsparse {

// What the planner knows of the device and of the kernel that will run.
struct PlanTarget {
  int32_t sm_count = 0;
  int32_t batch_tile = 0;   // batch entries of one CTA's output tile
  int32_t ctas_per_sm = 1;  // resident CTAs of that kernel on one SM
  int32_t kernel = 0;       // a bsparse_kernel (cuda/bsparse_cuda.h)
  int32_t columns = 1;      // output block columns of an item
  int32_t cta_columns = 1;  // of those, one CTA's
  int32_t shared_columns = 1;  // of those, so many neighbours pay for each other's blocks; of dw:
                               // ranges of the batch, at least
  int32_t entry_blocks = 1;   // neighbouring blocks that an entry is made of (of tiles of dw: that
                              // one product computes; of streams: entries that are taken at once),
  int32_t column_blocks = 1;  // and a column
  int32_t packed = 0;         // weight blocks are packed in the order of their use
  int32_t block_cells = 1;   // of streams and tiles of dw: cells along each side of a block, counted as blocks
  int32_t chunk_blocks = 0;  // of tiles of dw and sweeps: blocks side by side that are loaded together
  int32_t chunks = 0;        // of those, a CTA's, at most; of sweeps: KiB of a stage

  int32_t ctas() const { return columns / cta_columns; }  // of an item

  auto Key() const {
    return std::tuple(sm_count, batch_tile, ctas_per_sm, kernel, columns, cta_columns,
                      shared_columns, entry_blocks, column_blocks, packed, block_cells,
                      chunk_blocks, chunks);
  }
  bool operator<(const PlanTarget& other) const { return Key() < other.Key(); }
};

// Batches of one class share a plan: the number of batch tiles, rounded up to a power of two,
// decides how finely columns are split, and stops mattering once the batch alone fills the chip.
int64_t BatchClass(int64_t batch, const PlanTarget& target);

// Host-side tables of a bsparse_matmul_plan (cuda/bsparse_cuda.h), and how to find them in one
// flat array, so that they can travel to a device in one copy or as one constant.
class MatmulPlan {
 public:
  struct Item {
    int32_t group;  // of output columns
    int32_t first_entry;
    int32_t last_entry;
    int32_t partial;  // slot of its float32 partial, or -1: the item owns the whole group
  };
  struct Split {
    int32_t group;
    int32_t first_partial;
    int32_t num_partials;
  };

  MatmulPlan(const BlockIndex& index, int64_t batch, const PlanTarget& target);

  const PlanTarget& target() const { return target_; }
  int64_t num_entries() const { return num_entries_; }
  int32_t num_items() const { return num_items_; }
  int32_t num_splits() const { return num_splits_; }
  int32_t num_partials() const { return num_partials_; }
  int32_t num_packed() const { return num_packed_; }
  int32_t fullest_stage() const { return fullest_stage_; }

  // items (num_items, 4), entries (num_entries, entry_words), of packed plans the order
  // of weight blocks, of sweeps their records, splits (num_splits, 3), groups (groups, columns), one after the
  // other. Of streams there are no items and groups.
  const std::vector<int32_t>& tables() const { return tables_; }
  int32_t entry_words() const;
  int64_t items_offset() const { return 0; }
  int64_t entries_offset() const { return is_stream() ? 0 : int64_t{4} * num_items_; }
  int64_t splits_offset() const {
    return entries_offset() + entry_words() * num_entries_ + num_ordered_;
  }
  int64_t groups_offset() const { return splits_offset() + int64_t{3} * num_splits_; }

  // Work of the busiest CTA slot over the mean, if items are dealt in order to the slot that is
  // free first: 1 is perfect.
  double PredictedBalance(int64_t batch) const;

 private:
  // `units`: what the columns of `index` are, unless they are blocks.
  void CutIntoItems(const BlockIndex& index, const UnitIndex* units, int64_t batch);
  void CutForStreams(const BlockIndex& index, int64_t batch);
  void CutForSweeps(const BlockIndex& index);
  bool is_stream() const;
  bool is_union() const;

  PlanTarget target_;
  int32_t num_items_ = 0;
  int32_t num_splits_ = 0;
  int32_t num_partials_ = 0;
  int64_t num_entries_ = 0;
  int64_t num_ordered_ = 0;  // words of the order of weight blocks, and of records
  int32_t num_packed_ = 0;
  int32_t fullest_stage_ = 0;
  std::vector<int32_t> tables_;
};

// The work of dw = x^T dy: the stored blocks by output column, an order that is kind to the L2
// cache; for kernels that compute several blocks of a column at once, items of them; or tiles of
// the layout (dw_tiles.h).
class MatmulDwPlan {
 public:
  // `index` is of the forward product.
  MatmulDwPlan(const BlockIndex& index, int64_t batch, const PlanTarget& target);

  const PlanTarget& target() const { return target_; }
  int32_t num_blocks() const { return num_blocks_; }
  int32_t num_items() const { return num_items_; }
  // The batch is cut into this many ranges when the blocks alone do not fill the device.
  int32_t batch_splits() const { return batch_splits_; }
  // Of tiles: CTAs of an item, the most chunks of one; of columns the most blocks of an item,
  int32_t ctas() const { return target_.ctas(); }
  int32_t chunks() const { return chunks_; }
  int32_t whole_items() const { return whole_items_; }  // not cut along the batch
  // items, blocks, as of a bsparse_matmul_dw_plan
  const std::vector<int32_t>& tables() const { return tables_; }
  int64_t items_offset() const { return 0; }
  int64_t blocks_offset() const { return blocks_offset_; }

 private:
  void ListColumns(const BlockIndex& index, int64_t batch);
  void CutTiles(const BlockIndex& index, int64_t batch);

  PlanTarget target_;
  int32_t num_blocks_ = 0;
  int32_t num_items_ = 0;
  int32_t batch_splits_ = 1;
  int32_t chunks_ = 0;
  int32_t whole_items_ = 0;
  int64_t blocks_offset_ = 0;
  std::vector<int32_t> tables_;
};

}  // namespace bsparse

#endif  // BSPARSE_CC_PLAN_MATMUL_PLAN_H_
