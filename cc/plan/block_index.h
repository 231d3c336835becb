// A validated layout, sorted so that the blocks of one output column lie together.
#ifndef BSPARSE_CC_PLAN_BLOCK_INDEX_H_
#define BSPARSE_CC_PLAN_BLOCK_INDEX_H_

#include <cstdint>
#include <string>
#include <vector>

namespace bsparse {

// The layout as it comes from a user: coords (blocks, 2), row-major, (c, k) of each stored block
// in any order.
struct LayoutView {
  const int32_t* coords = nullptr;
  int64_t num_blocks = 0;
  int32_t in_blocks = 0;   // CB
  int32_t out_blocks = 0;  // KB
};

// Empty if the layout is legal, else one sentence that names the offending coordinate:
// out of range, or the same block twice.
std::string ValidateLayout(const LayoutView& layout);

// Compressed columns: entries [offsets[k], offsets[k + 1]) are the blocks of output column k, by
// rising input block. With `transpose` inputs and outputs change places.
class BlockIndex {
 public:
  struct Entry {
    int32_t in_block;
    int32_t weight_block;  // position in coords, and so in w
  };

  // `layout` must be valid.
  BlockIndex(const LayoutView& layout, bool transpose);

  bool is_transposed() const { return is_transposed_; }
  int32_t in_blocks() const { return in_blocks_; }
  int32_t out_blocks() const { return out_blocks_; }
  int64_t num_blocks() const { return static_cast<int64_t>(entries_.size()); }
  const std::vector<int64_t>& offsets() const { return offsets_; }  // (out_blocks + 1)
  const std::vector<Entry>& entries() const { return entries_; }    // (blocks)

 private:
  bool is_transposed_;
  int32_t in_blocks_;
  int32_t out_blocks_;
  std::vector<int64_t> offsets_;
  std::vector<Entry> entries_;
};

// The layout of the blocks' cells, `cells` along each side of a block. Those of a stored block are numbered
// after those of the one before, along its rows as it lies in memory, transposed or not.
BlockIndex CellsOf(const BlockIndex& index, int32_t cells);

}  // namespace bsparse

#endif  // BSPARSE_CC_PLAN_BLOCK_INDEX_H_
