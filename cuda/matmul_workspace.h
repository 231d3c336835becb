// What a product keeps in its workspace, and the sizes that follow from its arguments.
#ifndef BSPARSE_CUDA_MATMUL_WORKSPACE_H_
#define BSPARSE_CUDA_MATMUL_WORKSPACE_H_

#include <cstddef>
#include <cstdint>

#include "cuda/bsparse_cuda.h"

namespace bsparse {

// Partials, then, with items of one column, the plan without gated blocks; of streams the partials' flags; of
// streams, exact float32 and union tiles in TF32 x turned round; of these and sweeps weights rearranged.
struct MatmulWorkspace {
  size_t items = 0, entries = 0, flags = 0, inputs = 0, weights = 0, bytes;  // offsets, and the whole

  explicit MatmulWorkspace(const bsparse_matmul_args& args);
};

int64_t in_features(const bsparse_matmul_args& args);
int64_t out_features(const bsparse_matmul_args& args);
size_t weight_bytes(const bsparse_matmul_args& args);

// Small blocks come to union tiles and to sweeps packed.
bool wants_packed(const bsparse_matmul_args& args);

// Hopper's TF32 products want weights along the reduction, and those with features first in an order of
// their own (sm90/turned_inputs.cuh); exact float32 wants them across it.
bool arranges_weights(const bsparse_matmul_args& args);
bool interleaves_weights(const bsparse_matmul_args& args);  // that order

// Exact float32 by columns (sm80/exact_matmul.cu), but for small batches.
bool is_exact(const bsparse_matmul_args& args);

// Streams of short rows of x want them with features first, in rows of turned_row elements: the batch and what makes
// it a multiple of 16 bytes. Exact float32 wants that of any x with features last, or rows that are no such multiple.
// Union tiles in TF32 may want them with features last.
bool turns_inputs(const bsparse_matmul_args& args);
int64_t turned_row(int64_t batch);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_MATMUL_WORKSPACE_H_
