#include "cuda/dense_matmul.h"

#include <algorithm>

#include "cuda/check.h"
#include "cuda/cublas.h"
#include "cuda/dtype.cuh"
#include "cuda/epilogue.cuh"
#include "cuda/error.h"

namespace bsparse {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxCtas = 1 << 16;

unsigned grid_for(int64_t elements) {
  return static_cast<unsigned>(std::min<int64_t>((elements - 1) / kThreads + 1, kMaxCtas));
}

size_t round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }

// Rows and columns of the stored matrix, whichever way it is used.
struct DenseShape {
  int64_t rows, columns;

  template <class Args>
  static DenseShape of(const Args& args, bool transpose) {
    const int64_t in = int64_t{args.in_blocks} * args.block_size;
    const int64_t out = int64_t{args.out_blocks} * args.block_size;
    return transpose ? DenseShape{out, in} : DenseShape{in, out};
  }
  size_t bytes(bsparse_dtype dtype) const {
    return static_cast<size_t>(rows) * columns * element_size(dtype);
  }
};

// One CTA an output block column: its blocks to their places. With kTranspose columns of the plan
// are rows of the matrix. Rows move in vectors of 16 bytes.
template <bool kTranspose>
__global__ void scatter_kernel(const int4* items, const int2* entries, const uint4* w, uint4* dense,
                               int block_rows, int row_vectors, int64_t dense_row_vectors) {
  const int4 item = items[blockIdx.x];
  const int block_vectors = block_rows * row_vectors;
  const int64_t total = int64_t{item.z - item.y} * block_vectors;
  for (int64_t v = threadIdx.x; v < total; v += blockDim.x) {
    const int2 entry = entries[item.y + v / block_vectors];
    const int in_block = static_cast<int>(v % block_vectors);
    const int64_t block_row = kTranspose ? item.x : entry.x;
    const int64_t block_column = kTranspose ? entry.x : item.x;
    const int64_t row = block_row * block_rows + in_block / row_vectors;
    dense[row * dense_row_vectors + block_column * row_vectors + in_block % row_vectors] =
        w[static_cast<int64_t>(entry.y) * block_vectors + in_block];
  }
}

// A 16-bit y is rounded once: a bias, or gelu, takes float32 sums from scratch memory. (Given a c to
// add to, cuBLAS rounds the product first in some of its kernels.)
bool needs_sums(const bsparse_matmul_args& args) {
  return args.dtype != BSPARSE_FLOAT32 &&
         (args.bias != nullptr || args.activation == BSPARSE_ACTIVATION_GELU);
}

size_t sums_bytes(const bsparse_matmul_args& args) {
  return needs_sums(args) ? round_up(static_cast<size_t>(args.batch) * args.out_blocks *
                                     args.block_size * sizeof(float))
                          : 0;
}

// y = activation(sums + bias), all (batch, features) or (features, batch); `sums` may be y.
template <class Element, class Sum>
__global__ void finish_kernel(Element* y, const Sum* sums, const Element* bias, int64_t batch,
                              int64_t features, int feature_axis, int activation) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < batch * features;
       i += int64_t{gridDim.x} * kThreads) {
    float z = to_float(sums[i]);
    if (bias != nullptr) z += to_float(bias[feature_axis == 1 ? i % features : i / batch]);
    y[i] = from_float<Element>(activate(z, activation));
  }
}

// The product into y, `sums` being scratch memory where needs_sums().
template <class Element>
bsparse_status multiply(const bsparse_matmul_args& args, DenseProduct product, float* sums,
                        void* cublas_workspace, cudaStream_t stream) {
  auto* const y = static_cast<Element*>(args.y);
  product.c = needs_sums(args) ? static_cast<void*>(sums) : args.y;
  product.out_dtype = needs_sums(args) ? BSPARSE_FLOAT32 : args.dtype;
  const bsparse_status status = launch_dense_product(product, cublas_workspace, stream);
  if (status != BSPARSE_OK) return status;
  if (args.bias == nullptr && args.activation == BSPARSE_ACTIVATION_NONE) return status;
  const int64_t features = int64_t{args.out_blocks} * args.block_size;
  const unsigned grid = grid_for(args.batch * features);
  const auto* bias = static_cast<const Element*>(args.bias);
  if (needs_sums(args)) {
    finish_kernel<<<grid, kThreads, 0, stream>>>(y, sums, bias, args.batch, features,
                                                 args.feature_axis, args.activation);
  } else {
    finish_kernel<<<grid, kThreads, 0, stream>>>(y, y, bias, args.batch, features,
                                                 args.feature_axis, args.activation);
  }
  return check_cuda(cudaGetLastError(), "adding a bias");
}

template <class Element>
__global__ void gather_kernel(const Element* dense, const int32_t* blocks, const float* gate,
                              Element* dw, int block_size, int64_t dense_columns) {
  const int32_t* const block = blocks + 3 * static_cast<int64_t>(blockIdx.x);
  const float scale = gate == nullptr ? 1.0f : gate[block[2]];
  const int elements = block_size * block_size;
  for (int e = threadIdx.x; e < elements; e += blockDim.x) {
    const int64_t row = static_cast<int64_t>(block[0]) * block_size + e / block_size;
    const int64_t column = static_cast<int64_t>(block[1]) * block_size + e % block_size;
    const float value = to_float(dense[row * dense_columns + column]);
    dw[static_cast<int64_t>(block[2]) * elements + e] =
        from_float<Element>(scale == 0.0f ? 0.0f : scale * value);
  }
}

template <class Element>
void gather(const bsparse_matmul_dw_args& args, int64_t columns, cudaStream_t stream) {
  gather_kernel<<<args.plan.num_blocks, kThreads, 0, stream>>>(
      static_cast<const Element*>(args.workspace), args.plan.blocks, args.gate,
      static_cast<Element*>(args.dw), args.block_size, columns);
}

}  // namespace

size_t dense_matmul_workspace(const bsparse_matmul_args& args) {
  const DenseShape shape = DenseShape::of(args, args.transpose != 0);
  return round_up(shape.bytes(args.dtype)) + sums_bytes(args) + kCublasWorkspaceBytes;
}

bsparse_status launch_dense_matmul(const bsparse_matmul_args& args, cudaStream_t stream) {
  const bool transpose = args.transpose != 0;
  const DenseShape shape = DenseShape::of(args, transpose);
  void* const dense = args.workspace;
  bsparse_status status = BSPARSE_OK;
  if (args.plan.num_blocks < int64_t{args.in_blocks} * args.out_blocks) {
    status = check_cuda(cudaMemsetAsync(dense, 0, shape.bytes(args.dtype), stream),
                        "clearing a dense matrix");
    if (status != BSPARSE_OK) return status;
  }
  const int size = static_cast<int>(element_size(args.dtype));
  const auto scatter = transpose ? &scatter_kernel<true> : &scatter_kernel<false>;
  scatter<<<args.plan.num_items, kThreads, 0, stream>>>(
      reinterpret_cast<const int4*>(args.plan.items), reinterpret_cast<const int2*>(args.plan.entries),
      static_cast<const uint4*>(args.w), static_cast<uint4*>(dense), args.block_size,
      args.block_size * size / 16, shape.columns * size / 16);
  status = check_cuda(cudaGetLastError(), "making a matrix dense");
  if (status != BSPARSE_OK) return status;

  const int64_t in = int64_t{args.in_blocks} * args.block_size;
  const int64_t out = int64_t{args.out_blocks} * args.block_size;
  auto* const sums = static_cast<char*>(dense) + round_up(shape.bytes(args.dtype));
  void* const cublas_workspace = sums + sums_bytes(args);
  DenseProduct product{};
  product.dtype = args.dtype;
  product.allow_tf32 = args.allow_tf32 != 0;
  product.k = in;
  // Row-major (r, c) is column-major (c, r).
  if (args.feature_axis == 1) {
    product.m = out;
    product.n = args.batch;
    product.a = {dense, shape.columns, transpose};
    product.b = {args.x, in, false};
  } else {
    product.m = args.batch;
    product.n = out;
    product.a = {args.x, args.batch, false};
    product.b = {dense, shape.columns, !transpose};
  }
  auto* const float_sums = reinterpret_cast<float*>(sums);
  switch (args.dtype) {
    case BSPARSE_FLOAT32:
      return multiply<float>(args, product, float_sums, cublas_workspace, stream);
    case BSPARSE_FLOAT16:
      return multiply<__half>(args, product, float_sums, cublas_workspace, stream);
    case BSPARSE_BFLOAT16:
      return multiply<__nv_bfloat16>(args, product, float_sums, cublas_workspace, stream);
  }
  return BSPARSE_OK;
}

size_t dense_matmul_dw_workspace(const bsparse_matmul_dw_args& args) {
  const DenseShape shape = DenseShape::of(args, false);
  return round_up(shape.bytes(args.out_dtype)) + kCublasWorkspaceBytes;
}

bsparse_status launch_dense_matmul_dw(const bsparse_matmul_dw_args& args, cudaStream_t stream) {
  const DenseShape shape = DenseShape::of(args, false);
  void* const scratch = static_cast<char*>(args.workspace) + round_up(shape.bytes(args.out_dtype));
  const bool features_last = args.feature_axis == 1;
  const DenseOperand dy = {args.dy, features_last ? shape.columns : args.batch, !features_last};
  const DenseOperand x = {args.x, features_last ? shape.rows : args.batch, features_last};
  DenseProduct product{};
  product.dtype = args.dtype;
  product.out_dtype = args.out_dtype;
  product.allow_tf32 = args.allow_tf32 != 0;
  product.m = shape.columns;
  product.n = shape.rows;
  product.k = args.batch;
  product.a = dy;
  product.b = x;
  product.c = args.workspace;
  const bsparse_status status = launch_dense_product(product, scratch, stream);
  if (status != BSPARSE_OK) return status;
  switch (args.out_dtype) {
    case BSPARSE_FLOAT32: gather<float>(args, shape.columns, stream); break;
    case BSPARSE_FLOAT16: gather<__half>(args, shape.columns, stream); break;
    case BSPARSE_BFLOAT16: gather<__nv_bfloat16>(args, shape.columns, stream); break;
  }
  return check_cuda(cudaGetLastError(), "keeping the stored blocks");
}

}  // namespace bsparse
