// Stored blocks to their places in the dense matrix, and from there. The kernels move bytes, and are
// bound by memory.
#ifndef BSPARSE_CUDA_DENSE_BLOCKS_H_
#define BSPARSE_CUDA_DENSE_BLOCKS_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "cuda/bsparse_cuda.h"
#include "cuda/check.h"
#include "cuda/dw_output.cuh"

namespace bsparse {

// A dense matrix in scratch memory, and behind it a map of what lies where in it.
struct DenseMatrix {
  int32_t in_blocks, out_blocks;  // of the product
  int32_t block_size;
  bool transposed;  // the matrix is (out, in), else (in, out)
  bsparse_dtype dtype;
  void* data;

  int64_t rows() const { return int64_t{transposed ? out_blocks : in_blocks} * block_size; }
  int64_t columns() const { return int64_t{transposed ? in_blocks : out_blocks} * block_size; }

  // (out_blocks, in_blocks), whichever way the matrix lies: the block there is, or -1.
  int32_t* map() const {
    return reinterpret_cast<int32_t*>(static_cast<char*>(data) + data_bytes());
  }

  size_t bytes() const {
    return data_bytes() + round_up(sizeof(int32_t) * in_blocks * static_cast<size_t>(out_blocks));
  }

 private:
  static size_t round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }
  size_t data_bytes() const {
    return round_up(static_cast<size_t>(rows()) * columns() * element_size(dtype));
  }
};

// Fills the matrix with the blocks of `w`, and with zeros where none is stored. The plan has an item
// for each column. Like launch_gather_blocks() it writes the map first.
cudaError_t launch_expand_blocks(const DenseMatrix& matrix, const bsparse_matmul_plan& plan,
                                 const void* w, cudaStream_t stream);

// Stores of the matrix, which is not transposed, the blocks that the plan lists by rising column. Its
// dtype is that of dw, or float32.
cudaError_t launch_gather_blocks(const DenseMatrix& matrix, const bsparse_matmul_dw_plan& plan,
                                 const DwOutput& output, bsparse_dtype out_dtype,
                                 cudaStream_t stream);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_DENSE_BLOCKS_H_
