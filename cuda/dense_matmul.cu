#include "cuda/dense_matmul.h"

#include <algorithm>
#include <vector>

#include "cuda/check.h"
#include "cuda/cublas.h"
#include "cuda/dtype.cuh"
#include "cuda/epilogue.cuh"
#include "cuda/error.h"
#include "cuda/matmul_launch.h"
#include "cuda/with_element.cuh"

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
// add to, cuBLAS rounds the product first in some of its kernels.) So does a residual of any type: it
// may be y, and is read after the product.
bool needs_sums(const bsparse_matmul_args& args) {
  return args.residual != nullptr ||
         (args.dtype != BSPARSE_FLOAT32 &&
          (args.bias != nullptr || args.activation == BSPARSE_ACTIVATION_GELU));
}

size_t sums_bytes(const bsparse_matmul_args& args) {
  return needs_sums(args) ? round_up(static_cast<size_t>(args.batch) * args.out_blocks *
                                     args.block_size * sizeof(float))
                          : 0;
}

// y = activation(sums + bias) + residual, all (batch, features) or (features, batch); `sums` or
// `residual` may be y.
template <class Element, class Sum>
__global__ void finish_kernel(Element* y, const Sum* sums, const Element* bias,
                              const Element* residual, int64_t batch, int64_t features,
                              int feature_axis, int activation) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < batch * features;
       i += int64_t{gridDim.x} * kThreads) {
    float z = to_float(sums[i]);
    if (bias != nullptr) z += to_float(bias[feature_axis == 1 ? i % features : i / batch]);
    z = activate(z, activation);
    if (residual != nullptr) z += to_float(residual[i]);
    y[i] = from_float<Element>(z);
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
  if (args.bias == nullptr && args.activation == BSPARSE_ACTIVATION_NONE &&
      args.residual == nullptr) {
    return status;
  }
  const int64_t features = int64_t{args.out_blocks} * args.block_size;
  const unsigned grid = grid_for(args.batch * features);
  const auto* bias = static_cast<const Element*>(args.bias);
  const auto* residual = static_cast<const Element*>(args.residual);
  if (needs_sums(args)) {
    finish_kernel<<<grid, kThreads, 0, stream>>>(y, sums, bias, residual, args.batch, features,
                                                 args.feature_axis, args.activation);
  } else {
    finish_kernel<<<grid, kThreads, 0, stream>>>(y, y, bias, residual, args.batch, features,
                                                 args.feature_axis, args.activation);
  }
  return check_cuda(cudaGetLastError(), "adding a bias or a residual");
}

// Two elements a thread.
template <class Sum, class Element>
__global__ void gather_kernel(const Sum* dense, const int32_t* blocks, DwOutput output,
                              int block_size, int64_t dense_columns) {
  const int32_t* const block = blocks + 3 * static_cast<int64_t>(blockIdx.x);
  const float scale = output.scale(block[2]);
  const int elements = block_size * block_size;
  for (int e = 2 * threadIdx.x; e < elements; e += 2 * blockDim.x) {
    const int64_t row = static_cast<int64_t>(block[0]) * block_size + e / block_size;
    const int64_t column = static_cast<int64_t>(block[1]) * block_size + e % block_size;
    const auto sums = *reinterpret_cast<const Pair<Sum>*>(dense + row * dense_columns + column);
    output.store<Element>(static_cast<int64_t>(block[2]) * elements + e, scale,
                          to_float(sums.first), to_float(sums.second));
  }
}

template <class Sum, class Element>
void gather(const bsparse_matmul_dw_args& args, int64_t columns, cudaStream_t stream) {
  gather_kernel<Sum, Element><<<args.plan.num_blocks, kThreads, 0, stream>>>(
      static_cast<const Sum*>(args.workspace), args.plan.blocks, dw_output(args), args.block_size,
      columns);
}

// Of the dense gradient: float32 where sums of several pairs meet in it.
bsparse_dtype sums_dtype(const bsparse_matmul_dw_args& args) {
  return filled_pairs(args).size() > 1 ? BSPARSE_FLOAT32 : args.out_dtype;
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
  product.float32_math = args.float32_math;
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
  return with_element(args.dtype, [&](auto element) {
    return multiply<typename decltype(element)::Type>(args, product, float_sums, cublas_workspace,
                                                      stream);
  });
}

size_t dense_matmul_dw_workspace(const bsparse_matmul_dw_args& args) {
  const DenseShape shape = DenseShape::of(args, false);
  return round_up(shape.bytes(sums_dtype(args))) + kCublasWorkspaceBytes;
}

bsparse_status launch_dense_matmul_dw(const bsparse_matmul_dw_args& args, cudaStream_t stream) {
  const DenseShape shape = DenseShape::of(args, false);
  const bsparse_dtype dtype = sums_dtype(args);
  const std::vector<bsparse_dw_pair> pairs = filled_pairs(args);
  if (pairs.empty()) {
    return fail(BSPARSE_INVALID_ARGUMENT, "plan.kernel is %d; it takes no empty batch", BSPARSE_DENSE);
  }
  const bool features_last = args.feature_axis == 1;
  DenseProduct product{};
  product.dtype = args.dtype;
  product.out_dtype = dtype;
  product.float32_math = args.float32_math;
  product.m = shape.columns;
  product.n = shape.rows;
  product.c = args.workspace;
  for (const bsparse_dw_pair& pair : pairs) {
    product.k = pair.batch;
    product.a = {pair.dy, features_last ? shape.columns : pair.batch, !features_last};
    product.b = {pair.x, features_last ? shape.rows : pair.batch, features_last};
    const bsparse_status status = launch_dense_product(
        product, static_cast<char*>(args.workspace) + round_up(shape.bytes(dtype)), stream);
    if (status != BSPARSE_OK) return status;
    product.accumulates = true;
  }
  const bool wide = dtype == BSPARSE_FLOAT32;
  with_element(args.out_dtype, [&](auto element) {
    using Element = typename decltype(element)::Type;
    (wide ? &gather<float, Element> : &gather<Element, Element>)(args, shape.columns, stream);
  });
  return check_cuda(cudaGetLastError(), "keeping the stored blocks");
}

}  // namespace bsparse
