#include "cuda/dense/matmul.h"

#include <algorithm>
#include <vector>

#include "cuda/check.h"
#include "cuda/dense/blocks.h"
#include "cuda/dense/cublas.h"
#include "cuda/dtype.cuh"
#include "cuda/early_launch.cuh"
#include "cuda/epilogue.cuh"
#include "cuda/error.h"
#include "cuda/kernel_launch.h"
#include "cuda/matmul_launch.h"
#include "cuda/matmul_workspace.h"
#include "cuda/support_kernels.h"
#include "cuda/with_element.cuh"

namespace bsparse {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxCtas = 1 << 16;

unsigned grid_for(int64_t elements) {
  return static_cast<unsigned>(std::min<int64_t>((elements - 1) / kThreads + 1, kMaxCtas));
}

size_t round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }

// In TF32 on Hopper cuBLAS takes 1.4 to 1.6 times as long where both operands lie across the sum. These are the
// products from which on it pays to turn one round (docs/kernel-notes.md).
constexpr int64_t kTurnedBatch = 512;      // of the stored blocks
constexpr int64_t kTurnedFeatures = 1024;  // of x or dy: the other one's

template <class Args>
bool minds_rows_across_sum(const Args& args) {
  bsparse_device device;
  return args.dtype == BSPARSE_FLOAT32 && args.float32_math == BSPARSE_FLOAT32_TF32 &&
         get_device(&device) == BSPARSE_OK && device.compute_capability == 90;
}

bool turns_blocks(const bsparse_matmul_args& args) {
  return args.feature_axis == 0 && args.transpose == 0 && args.plan.num_blocks > 0 &&
         args.batch >= kTurnedBatch && minds_rows_across_sum(args);
}

template <class Args>
DenseMatrix matrix_in_workspace(const Args& args, bool transposed, bsparse_dtype dtype) {
  return {args.in_blocks, args.out_blocks, args.block_size, transposed, dtype, args.workspace};
}

DenseMatrix matrix_of(const bsparse_matmul_args& args) {
  return matrix_in_workspace(args, args.transpose != 0 || turns_blocks(args), args.dtype);
}

// The gradient: float32 where sums of several pairs meet in it.
DenseMatrix matrix_of(const bsparse_matmul_dw_args& args) {
  const bool adds = filled_pairs(args).size() > 1;
  return matrix_in_workspace(args, false, adds ? BSPARSE_FLOAT32 : args.out_dtype);
}

// Behind the matrix in the workspace.
char* workspace_behind(const DenseMatrix& matrix) {
  return static_cast<char*>(matrix.data) + matrix.bytes();
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

size_t turned_blocks_bytes(const bsparse_matmul_args& args) {
  return turns_blocks(args) ? round_up(weight_bytes(args)) : 0;
}

// y = activation(sums + bias) + residual, all (batch, features) or (features, batch); `sums` or
// `residual` may be y.
template <class Element, class Sum>
__global__ void finish_kernel(Element* y, const Sum* sums, const Element* bias,
                              const Element* residual, int64_t batch, int64_t features,
                              int feature_axis, int activation) {
  follow_kernel_before();
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
  const auto* bias = static_cast<const Element*>(args.bias);
  const auto* residual = static_cast<const Element*>(args.residual);
  const auto finish = [&](auto* kernel, const auto* from) {
    launch_early(kernel, dim3(grid_for(args.batch * features)), dim3(kThreads), stream, y, from, bias,
                 residual, args.batch, features, args.feature_axis, args.activation);
  };
  if (needs_sums(args)) {
    finish(&finish_kernel<Element, float>, sums);
  } else {
    finish(&finish_kernel<Element, Element>, y);
  }
  return check_cuda(cudaGetLastError(), "adding a bias or a residual");
}

// The stored blocks, at their places in the matrix.
bsparse_status fill_matrix(const bsparse_matmul_args& args, const DenseMatrix& matrix, void* turned_blocks,
                           cudaStream_t stream) {
  const void* w = args.w;
  if (turns_blocks(args)) {
    const ArrangeBlocks turn = {static_cast<const float*>(args.w), static_cast<float*>(turned_blocks),
                                args.plan.num_blocks, args.block_size, /*transpose=*/true,
                                /*interleave=*/false};
    const bsparse_status status = check_cuda(launch_arrange_blocks(turn, stream), "turning weights round");
    if (status != BSPARSE_OK) return status;
    w = turned_blocks;
  }
  return check_cuda(launch_expand_blocks(matrix, args.plan, w, stream), "making a matrix dense");
}

enum class Turned { kNone, kX, kDy };

// The smaller one.
Turned turned_of_pair(const bsparse_matmul_dw_args& args) {
  if (args.feature_axis == 0 || !minds_rows_across_sum(args)) return Turned::kNone;
  const int64_t larger = int64_t{std::max(args.in_blocks, args.out_blocks)} * args.block_size;
  if (larger < kTurnedFeatures) return Turned::kNone;
  return args.in_blocks <= args.out_blocks ? Turned::kX : Turned::kDy;
}

int64_t turned_features(const bsparse_matmul_dw_args& args) {
  return int64_t{std::min(args.in_blocks, args.out_blocks)} * args.block_size;
}

// One pair's at a time.
size_t turned_pair_bytes(const bsparse_matmul_dw_args& args) {
  if (turned_of_pair(args) == Turned::kNone) return 0;
  int64_t row = 0;
  for (const bsparse_dw_pair& pair : filled_pairs(args)) row = std::max(row, turned_row(pair.batch));
  return round_up(static_cast<size_t>(turned_features(args) * row) * element_size(args.dtype));
}

// x or dy of `pair` as an operand of `product`, turned round in `to`, or both as they are.
bsparse_status turn_pair(const bsparse_matmul_dw_args& args, const bsparse_dw_pair& pair, void* to,
                         DenseProduct* product, cudaStream_t stream) {
  const Turned turned = turned_of_pair(args);
  if (turned == Turned::kNone) return BSPARSE_OK;
  const int64_t row = turned_row(pair.batch);
  const Turn turn = {turned == Turned::kX ? pair.x : pair.dy, to, pair.batch, turned_features(args), row};
  (turned == Turned::kX ? product->b : product->a) = {to, row, turned == Turned::kDy};
  return check_cuda(launch_turn_floats({{turn}, 1}, stream), "turning x or dy round");
}

}  // namespace

size_t dense_matmul_workspace(const bsparse_matmul_args& args) {
  return matrix_of(args).bytes() + sums_bytes(args) + kCublasWorkspaceBytes + turned_blocks_bytes(args);
}

bsparse_status launch_dense_matmul(const bsparse_matmul_args& args, cudaStream_t stream) {
  if (args.plan.num_items != args.out_blocks) {
    return fail(BSPARSE_INVALID_ARGUMENT,
                "plan.num_items is %d; for the dense matrix expected one of each of %d columns",
                args.plan.num_items, args.out_blocks);
  }
  const DenseMatrix matrix = matrix_of(args);
  char* const sums = workspace_behind(matrix);
  char* const cublas_workspace = sums + sums_bytes(args);
  const bsparse_status status =
      fill_matrix(args, matrix, cublas_workspace + kCublasWorkspaceBytes, stream);
  if (status != BSPARSE_OK) return status;

  const int64_t in = int64_t{args.in_blocks} * args.block_size;
  const int64_t out = int64_t{args.out_blocks} * args.block_size;
  DenseProduct product{};
  product.dtype = args.dtype;
  product.float32_math = args.float32_math;
  product.k = in;
  // Row-major (r, c) is column-major (c, r).
  if (args.feature_axis == 1) {
    product.m = out;
    product.n = args.batch;
    product.a = {matrix.data, matrix.columns(), matrix.transposed};
    product.b = {args.x, in, false};
  } else {
    product.m = args.batch;
    product.n = out;
    product.a = {args.x, args.batch, false};
    product.b = {matrix.data, matrix.columns(), !matrix.transposed};
  }
  auto* const float_sums = reinterpret_cast<float*>(sums);
  return with_element(args.dtype, [&](auto element) {
    return multiply<typename decltype(element)::Type>(args, product, float_sums, cublas_workspace,
                                                      stream);
  });
}

size_t dense_matmul_dw_workspace(const bsparse_matmul_dw_args& args) {
  return matrix_of(args).bytes() + kCublasWorkspaceBytes + turned_pair_bytes(args);
}

bsparse_status launch_dense_matmul_dw(const bsparse_matmul_dw_args& args, cudaStream_t stream) {
  const DenseMatrix matrix = matrix_of(args);
  const std::vector<bsparse_dw_pair> pairs = filled_pairs(args);
  if (pairs.empty()) {
    return fail(BSPARSE_INVALID_ARGUMENT, "plan.kernel is %d; it takes no empty batch", BSPARSE_DENSE);
  }
  const bool features_last = args.feature_axis == 1;
  char* const cublas_workspace = workspace_behind(matrix);
  DenseProduct product{};
  product.dtype = args.dtype;
  product.out_dtype = matrix.dtype;
  product.float32_math = args.float32_math;
  product.m = matrix.columns();
  product.n = matrix.rows();
  product.c = matrix.data;
  for (const bsparse_dw_pair& pair : pairs) {
    product.k = pair.batch;
    product.a = {pair.dy, features_last ? matrix.columns() : pair.batch, !features_last};
    product.b = {pair.x, features_last ? matrix.rows() : pair.batch, features_last};
    bsparse_status status = turn_pair(args, pair, cublas_workspace + kCublasWorkspaceBytes, &product, stream);
    if (status == BSPARSE_OK) status = launch_dense_product(product, cublas_workspace, stream);
    if (status != BSPARSE_OK) return status;
    product.accumulates = true;
  }
  return check_cuda(
      launch_gather_blocks(matrix, args.plan, dw_output(args), args.out_dtype, stream),
      "keeping the stored blocks");
}

}  // namespace bsparse
