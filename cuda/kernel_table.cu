#include "cuda/kernel_table.h"

#include "cuda/error.h"
#include "cuda/matmul_workspace.h"
#include "cuda/sm90/dw_choice.h"
#include "cuda/sm90/policy.cuh"

namespace bsparse {
namespace {

// The kernels of one arithmetic mode (dtype.cuh); null: none of that family.
struct MathKernels {
  using FindMatmul = Kernel (*)(const MatmulVariant& variant);
  using FindMatmulDw = Kernel (*)(int block_size, int feature_axis);
  const char* name;
  FindMatmul matmul;
  FindMatmulDw matmul_dw;
  FindMatmul union_matmul;
  FindMatmulDw union_matmul_dw;
  FindMatmul stream_matmul;
  FindMatmul sweep_matmul;
  FindMatmulDw tiled_matmul_dw;
  FindMatmulDw small_matmul_dw;
};

constexpr MathKernels kBf16 = {"bf16", sm80_matmul_bf16, sm80_matmul_dw_bf16,
                               sm90_matmul_bf16, sm90_matmul_dw_bf16, sm90_stream_bf16,
                               sm90_sweep_bf16, sm90_dw_tiles_bf16, sm80_small_dw_bf16};
constexpr MathKernels kFp16 = {"fp16", sm80_matmul_fp16, sm80_matmul_dw_fp16,
                               sm90_matmul_fp16, sm90_matmul_dw_fp16, sm90_stream_fp16,
                               sm90_sweep_fp16, sm90_dw_tiles_fp16, sm80_small_dw_fp16};
constexpr MathKernels kFp32 = {"fp32", sm80_matmul_fp32, sm80_matmul_dw_fp32,
                               nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
constexpr MathKernels kTf32 = {"tf32", sm80_matmul_tf32, sm80_matmul_dw_tf32,
                               sm90_matmul_tf32, sm90_matmul_dw_tf32, sm90_stream_tf32,
                               sm90_sweep_tf32, sm90_dw_tiles_tf32, sm80_small_dw_tf32};
constexpr MathKernels kTf32x3 = {"tf32x3", sm80_matmul_tf32x3, sm80_matmul_dw_tf32x3,
                                 nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};

const MathKernels& kernels_for(bsparse_dtype dtype, bsparse_float32_math float32_math) {
  if (dtype == BSPARSE_BFLOAT16) return kBf16;
  if (dtype == BSPARSE_FLOAT16) return kFp16;
  if (float32_math == BSPARSE_FLOAT32_TF32) return kTf32;
  return float32_math == BSPARSE_FLOAT32_TF32X3 ? kTf32x3 : kFp32;
}

bsparse_status found_kernel(const Kernel& kernel, int family, bsparse_dtype dtype,
                            int block_size) {
  if (kernel.function != nullptr) return BSPARSE_OK;
  return fail(BSPARSE_INVALID_ARGUMENT,
              "plan.kernel is %d; it has no kernel for dtype %d and block_size %d, ask get_tile",
              family, static_cast<int>(dtype), block_size);
}

}  // namespace

const char* math_name(bsparse_dtype dtype, bsparse_float32_math float32_math) {
  return kernels_for(dtype, float32_math).name;
}

Kernel find_matmul(bsparse_dtype dtype, bsparse_float32_math float32_math,
                   const MatmulVariant& variant) {
  const MathKernels& kernels = kernels_for(dtype, float32_math);
  const auto find = is_union(variant.family)                  ? kernels.union_matmul
                    : variant.family == BSPARSE_SM90_STREAM   ? kernels.stream_matmul
                    : variant.family == BSPARSE_SM90_SWEEP    ? kernels.sweep_matmul
                                                              : kernels.matmul;
  return find == nullptr ? Kernel{} : find(variant);
}

Kernel find_matmul_dw(bsparse_kernel family, bsparse_dtype dtype,
                      bsparse_float32_math float32_math, int block_size, int feature_axis) {
  const MathKernels& kernels = kernels_for(dtype, float32_math);
  const auto find = family == BSPARSE_SM90_DW_TILES ? kernels.tiled_matmul_dw
                    : family == BSPARSE_SM80_SMALL  ? kernels.small_matmul_dw
                    : is_union(family)              ? kernels.union_matmul_dw
                                                    : kernels.matmul_dw;
  return find == nullptr ? Kernel{} : find(block_size, feature_axis);
}

bsparse_status find_planned_matmul(const bsparse_matmul_args& args, Kernel* kernel) {
  const int family = args.plan.kernel;
  *kernel = {};
  if (family == BSPARSE_SM80 || family == BSPARSE_SM80_SMALL || family == BSPARSE_SM90 ||
      family == BSPARSE_SM90_STREAM || family == BSPARSE_SM90_SWEEP) {
    *kernel = find_matmul(args.dtype, args.float32_math,
                          {args.block_size, args.feature_axis, args.transpose != 0,
                           static_cast<bsparse_kernel>(family), args.batch,
                           sweep_batch_tile(int64_t{args.plan.columns} * args.block_size),
                           turns_inputs(args)});
  }
  return found_kernel(*kernel, family, args.dtype, args.block_size);
}

bsparse_status find_planned_matmul_dw(const bsparse_matmul_dw_args& args, Kernel* kernel) {
  const int family = args.plan.kernel;
  *kernel = {};
  if (family == BSPARSE_SM80 || family == BSPARSE_SM80_SMALL || family == BSPARSE_SM90 ||
      family == BSPARSE_SM90_DW_TILES) {
    *kernel = find_matmul_dw(static_cast<bsparse_kernel>(family), args.dtype,
                             args.float32_math, args.block_size,
                             hopper_dw_turns(hopper_dw(args), family) ? 0 : args.feature_axis);
  }
  return found_kernel(*kernel, family, args.dtype, args.block_size);
}

}  // namespace bsparse
