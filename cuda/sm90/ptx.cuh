// PTX of sm_90a that CUDA C++ has no name for: mbarriers, bulk tensor copies, warpgroup products.
#ifndef BSPARSE_CUDA_SM90_PTX_CUH_
#define BSPARSE_CUDA_SM90_PTX_CUH_

#include <cuda.h>

#include <cstdint>

#include "cuda/dtype.cuh"

namespace bsparse::ptx {

// True in one thread of the warp. What such a thread copies takes the compiler no loop over threads.
__device__ __forceinline__ bool elected() {
  uint32_t elected;
  asm volatile(
      "{\n"
      ".reg .pred one;\n"
      "elect.sync _|one, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, one;\n"
      "}\n"
      : "=r"(elected));
  return elected != 0;
}

// mbarriers. A barrier's phases alternate between parity 0 and 1.

__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// The address of the same place in the shared memory of CTA `rank` of the cluster.
__device__ __forceinline__ uint32_t address_in(uint32_t address, uint32_t rank) {
  uint32_t remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}

// Arrives at a barrier of any CTA of the cluster.
__device__ __forceinline__ void barrier_arrive_in_cluster(uint32_t remote) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(remote)
               : "memory");
}

__device__ __forceinline__ uint32_t cluster_id() {
  uint32_t id;
  asm("mov.u32 %0, %%clusterid.x;" : "=r"(id));
  return id;
}

// Of the grid.
__device__ __forceinline__ uint32_t clusters() {
  uint32_t count;
  asm("mov.u32 %0, %%nclusterid.x;" : "=r"(count));
  return count;
}

__device__ __forceinline__ uint32_t rank_in_cluster() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// Waits for all threads of the cluster.
__device__ __forceinline__ void cluster_barrier() {
  asm volatile(
      "barrier.cluster.arrive.release;\n"
      "barrier.cluster.wait.acquire;" ::
          : "memory");
}

// Arrives, and lets the phase wait for `bytes` of bulk copies too.
__device__ __forceinline__ void barrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

// Waits until the phase of this parity is over.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// Whether the phase of this parity is over.
__device__ __forceinline__ bool barrier_is_over(uint32_t barrier, uint32_t parity) {
  uint32_t over;
  asm volatile(
      "{\n"
      ".reg .pred over;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 over, [%1], %2;\n"
      "selp.u32 %0, 1, 0, over;\n"
      "}\n"
      : "=r"(over)
      : "r"(barrier), "r"(parity)
      : "memory");
  return over != 0;
}

// A barrier among `threads` threads of the CTA; 0 is __syncthreads()'s.
__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// A bulk copy of bytes: addresses and their number are multiples of 16.
__device__ __forceinline__ void copy_bytes_to_shared(uint32_t to, const void* from, uint32_t bytes,
                                                     uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}

// Bulk tensor copies of a box at (column, row) of a two-dimensional tensor. What lies outside the
// tensor is read as zeros, counts as copied, and is not written.

__device__ __forceinline__ void prefetch_tensor_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// What the L2 cache does with copied lines: keep them longer than others, or let them go first.
__device__ __forceinline__ uint64_t policy_keep() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

__device__ __forceinline__ uint64_t policy_leave() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

__device__ __forceinline__ void copy_box_to_shared(uint32_t to, const CUtensorMap* from, int column,
                                                   int row, uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(from), "r"(column), "r"(row), "r"(barrier), "l"(policy)
      : "memory");
}

__device__ __forceinline__ void copy_box_to_shared(uint32_t to, const CUtensorMap* from, int column,
                                                   int row, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(from), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

// The same into every CTA of the cluster whose bit is set in `ranks`, at the same place, and
// counted by the barrier at the same place.
__device__ __forceinline__ void copy_box_to_cluster(uint32_t to, const CUtensorMap* from,
                                                    int column, int row, uint32_t barrier,
                                                    uint16_t ranks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(from), "r"(column), "r"(row), "r"(barrier), "h"(ranks)
      : "memory");
}

// The same of a map of activations with features first that has three dimensions (make_deep_tensor_map).

__device__ __forceinline__ void copy_deep_box_to_shared(uint32_t to, const CUtensorMap* from,
                                                        int feature, int chunk, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
      "l"(from), "r"(0), "r"(feature), "r"(chunk), "r"(barrier)
      : "memory");
}

__device__ __forceinline__ void copy_deep_box_to_cluster(uint32_t to, const CUtensorMap* from,
                                                         int feature, int chunk, uint32_t barrier,
                                                         uint16_t ranks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(to),
      "l"(from), "r"(0), "r"(feature), "r"(chunk), "r"(barrier), "h"(ranks)
      : "memory");
}

// Written lines are the first to leave the L2 cache.
__device__ __forceinline__ void copy_box_to_global(const CUtensorMap* to, int column, int row,
                                                   uint32_t from) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group.L2::cache_hint "
      "[%0, {%1, %2}], [%3], %4;" ::"l"(to),
      "r"(column), "r"(row), "r"(from), "l"(policy_leave())
      : "memory");
}

// Written lines stay as long as others.
__device__ __forceinline__ void copy_box_to_global_kept(const CUtensorMap* to, int column, int row,
                                                        uint32_t from) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(to),
      "r"(column), "r"(row), "r"(from)
      : "memory");
}

__device__ __forceinline__ void bulk_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Waits until this thread's bulk stores have read shared memory.
__device__ __forceinline__ void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

__device__ __forceinline__ void bulk_wait() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

// Lets the copy engine and the tensor cores see ordinary writes to shared memory.
__device__ __forceinline__ void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Registers of the threads of a warpgroup.
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Stores four 8x8 matrices of 16-bit elements; lane l gives the address of one 16-byte row: of
// matrix l / 8, row l % 8.
__device__ __forceinline__ void stmatrix_x4(uint32_t address, const uint32_t (&d)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(d[0]), "r"(d[1]), "r"(d[2]), "r"(d[3])
               : "memory");
}

__device__ __forceinline__ void stmatrix_x4_trans(uint32_t address, const uint32_t (&d)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   address),
               "r"(d[0]), "r"(d[1]), "r"(d[2]), "r"(d[3])
               : "memory");
}

// Warpgroup products.

__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most `kPending` groups are still under way.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Waits for all groups. The accumulators are named so that the compiler moves no use of them ahead
// of the wait.
template <int kSize>
__device__ __forceinline__ void wgmma_wait_for(float (&d)[kSize]) {
  wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < kSize; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// Where a matrix operand lies in shared memory. Both offsets in bytes; what they mean depends on
// the operand's major (PTX ISA, "Asynchronous warpgroup level matrix shared memory layout"):
//   rows along the reduction: `stride` from 8 rows to the next 8;
//   rows along the output: `stride` from 8 rows to the next 8 along the reduction, `leading` from
//   one swizzled width to the next along the output.
enum class Swizzle : uint64_t { k128Bytes = 1, k64Bytes = 2, k32Bytes = 3 };

constexpr Swizzle swizzle_of(int row_bytes) {
  return row_bytes == 128 ? Swizzle::k128Bytes
                          : row_bytes == 64 ? Swizzle::k64Bytes : Swizzle::k32Bytes;
}

constexpr uint64_t operand_layout(Swizzle swizzle, int leading, int stride) {
  return static_cast<uint64_t>(leading >> 4) << 16 | static_cast<uint64_t>(stride >> 4) << 32 |
         static_cast<uint64_t>(swizzle) << 62;
}

__device__ __forceinline__ uint64_t operand(uint64_t layout, uint32_t address) {
  return layout | (address & 0x3FFFF) >> 4;
}

#define BSPARSE_F8(d, i)                                                                     \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define BSPARSE_F16(d, i) BSPARSE_F8(d, i), BSPARSE_F8(d, i + 8)
#define BSPARSE_F32(d, i) \
  BSPARSE_F8(d, i), BSPARSE_F8(d, i + 8), BSPARSE_F8(d, i + 16), BSPARSE_F8(d, i + 24)
#define BSPARSE_R8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define BSPARSE_R16 BSPARSE_R8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define BSPARSE_R32                                                                           \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "     \
  "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define BSPARSE_R64                                                                           \
  BSPARSE_R32                                                                                 \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, "   \
  "%49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define BSPARSE_R128                                                                          \
  BSPARSE_R64                                                                                 \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, "   \
  "%81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, "     \
  "%98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, "  \
  "%113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// d (64, n) += a (64, 16) b (16, n), 8 for TF32. kRowsAlongA: the rows of a in shared memory run along the
// reduction's other dimension, that is, a is stored transposed; the same for b.
#define BSPARSE_WGMMA(type, n, registers, a, b, ta, tb, ...)                                   \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" registers  \
               "}, " a ", " b ", 1, 1, 1, " ta ", " tb ";"                                     \
               : __VA_ARGS__                                                                   \
               : "l"(from_a), "l"(from_b), "n"(kTransposeA), "n"(kTransposeB))

// TF32 wants both along the reduction, and ignores the last 13 bits of what it reads: tensor maps
// see to the rounding.
#define BSPARSE_WGMMA_TF32(n, registers, a, b, ...)                                           \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k8.f32.tf32.tf32 {" registers "}, " a  \
               ", " b ", 1, 1, 1;"                                                            \
               : __VA_ARGS__                                                                  \
               : "l"(from_a), "l"(from_b))

template <class Element, int kN, int kTransposeA, int kTransposeB>
__device__ __forceinline__ void wgmma(float (&d)[kN / 2], uint64_t from_a, uint64_t from_b) {
  static_assert(kN >= 16 && kN <= 256 && (kN & (kN - 1)) == 0, "widths that kernels use");
  constexpr bool kTf32 = std::is_same_v<Element, float>;
  static_assert(!kTf32 || (kTransposeA == 0 && kTransposeB == 0));
  constexpr bool kBf16 = std::is_same_v<Element, __nv_bfloat16>;
  if constexpr (kN == 256 && kTf32) {
    BSPARSE_WGMMA_TF32(256, BSPARSE_R128, "%128", "%129", BSPARSE_F32(d, 0), BSPARSE_F32(d, 32),
                       BSPARSE_F32(d, 64), BSPARSE_F32(d, 96));
  } else if constexpr (kN == 128 && kTf32) {
    BSPARSE_WGMMA_TF32(128, BSPARSE_R64, "%64", "%65", BSPARSE_F32(d, 0), BSPARSE_F32(d, 32));
  } else if constexpr (kN == 64 && kTf32) {
    BSPARSE_WGMMA_TF32(64, BSPARSE_R32, "%32", "%33", BSPARSE_F32(d, 0));
  } else if constexpr (kN == 32 && kTf32) {
    BSPARSE_WGMMA_TF32(32, BSPARSE_R16, "%16", "%17", BSPARSE_F16(d, 0));
  } else if constexpr (kTf32) {
    BSPARSE_WGMMA_TF32(16, BSPARSE_R8, "%8", "%9", BSPARSE_F8(d, 0));
  } else if constexpr (kN == 256 && kBf16) {
    BSPARSE_WGMMA("bf16", 256, BSPARSE_R128, "%128", "%129", "%130", "%131", BSPARSE_F32(d, 0),
                  BSPARSE_F32(d, 32), BSPARSE_F32(d, 64), BSPARSE_F32(d, 96));
  } else if constexpr (kN == 256) {
    BSPARSE_WGMMA("f16", 256, BSPARSE_R128, "%128", "%129", "%130", "%131", BSPARSE_F32(d, 0),
                  BSPARSE_F32(d, 32), BSPARSE_F32(d, 64), BSPARSE_F32(d, 96));
  } else if constexpr (kN == 128 && kBf16) {
    BSPARSE_WGMMA("bf16", 128, BSPARSE_R64, "%64", "%65", "%66", "%67", BSPARSE_F32(d, 0),
                  BSPARSE_F32(d, 32));
  } else if constexpr (kN == 128) {
    BSPARSE_WGMMA("f16", 128, BSPARSE_R64, "%64", "%65", "%66", "%67", BSPARSE_F32(d, 0),
                  BSPARSE_F32(d, 32));
  } else if constexpr (kN == 64 && kBf16) {
    BSPARSE_WGMMA("bf16", 64, BSPARSE_R32, "%32", "%33", "%34", "%35", BSPARSE_F32(d, 0));
  } else if constexpr (kN == 64) {
    BSPARSE_WGMMA("f16", 64, BSPARSE_R32, "%32", "%33", "%34", "%35", BSPARSE_F32(d, 0));
  } else if constexpr (kN == 32 && kBf16) {
    BSPARSE_WGMMA("bf16", 32, BSPARSE_R16, "%16", "%17", "%18", "%19", BSPARSE_F16(d, 0));
  } else if constexpr (kN == 32) {
    BSPARSE_WGMMA("f16", 32, BSPARSE_R16, "%16", "%17", "%18", "%19", BSPARSE_F16(d, 0));
  } else if constexpr (kBf16) {
    BSPARSE_WGMMA("bf16", 16, BSPARSE_R8, "%8", "%9", "%10", "%11", BSPARSE_F8(d, 0));
  } else {
    BSPARSE_WGMMA("f16", 16, BSPARSE_R8, "%8", "%9", "%10", "%11", BSPARSE_F8(d, 0));
  }
}

// The same with a (64, 16), or (64, 8) of TF32, in registers, as mma.m16n8k16 and mma.m16n8k8 have it, 16 rows
// a warp; they must not be written before the product is done.
#define BSPARSE_WGMMA_OF_REGISTERS(type, n, registers, a0, a1, a2, a3, b, tb, ...)           \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" registers \
               "}, {" a0 ", " a1 ", " a2 ", " a3 "}, " b ", 1, 1, 1, " tb ";"                 \
               : __VA_ARGS__                                                                  \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(from_b), "n"(kTransposeB))

#define BSPARSE_WGMMA_TF32_OF_REGISTERS(n, registers, a0, a1, a2, a3, b, ...)               \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k8.f32.tf32.tf32 {" registers "}, {" a0 \
               ", " a1 ", " a2 ", " a3 "}, " b ", 1, 1, 1;"                                    \
               : __VA_ARGS__                                                                  \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(from_b))

template <class Element, int kN, int kTransposeB>
__device__ __forceinline__ void wgmma_of_registers(float (&d)[kN / 2], const uint32_t (&a)[4],
                                                   uint64_t from_b) {
  constexpr bool kTf32 = std::is_same_v<Element, float>;
  static_assert(kTf32 ? kN == 128 || kN == 64 || kN == 32 : kN == 256, "the widths that kernels use");
  static_assert(!kTf32 || kTransposeB == 0);
  if constexpr (kTf32 && kN == 128) {
    BSPARSE_WGMMA_TF32_OF_REGISTERS(128, BSPARSE_R64, "%64", "%65", "%66", "%67", "%68",
                                    BSPARSE_F32(d, 0), BSPARSE_F32(d, 32));
  } else if constexpr (kTf32 && kN == 32) {
    BSPARSE_WGMMA_TF32_OF_REGISTERS(32, BSPARSE_R16, "%16", "%17", "%18", "%19", "%20",
                                    BSPARSE_F16(d, 0));
  } else if constexpr (kTf32) {
    BSPARSE_WGMMA_TF32_OF_REGISTERS(64, BSPARSE_R32, "%32", "%33", "%34", "%35", "%36",
                                    BSPARSE_F32(d, 0));
  } else if constexpr (std::is_same_v<Element, __nv_bfloat16>) {
    BSPARSE_WGMMA_OF_REGISTERS("bf16", 256, BSPARSE_R128, "%128", "%129", "%130", "%131", "%132",
                               "%133", BSPARSE_F32(d, 0), BSPARSE_F32(d, 32), BSPARSE_F32(d, 64),
                               BSPARSE_F32(d, 96));
  } else {
    BSPARSE_WGMMA_OF_REGISTERS("f16", 256, BSPARSE_R128, "%128", "%129", "%130", "%131", "%132",
                               "%133", BSPARSE_F32(d, 0), BSPARSE_F32(d, 32), BSPARSE_F32(d, 64),
                               BSPARSE_F32(d, 96));
  }
}

#undef BSPARSE_WGMMA_TF32_OF_REGISTERS
#undef BSPARSE_WGMMA_OF_REGISTERS
#undef BSPARSE_WGMMA
#undef BSPARSE_WGMMA_TF32
#undef BSPARSE_R128
#undef BSPARSE_R64
#undef BSPARSE_R32
#undef BSPARSE_R16
#undef BSPARSE_R8
#undef BSPARSE_F32
#undef BSPARSE_F16
#undef BSPARSE_F8

}  // namespace bsparse::ptx

#endif  // BSPARSE_CUDA_SM90_PTX_CUH_
