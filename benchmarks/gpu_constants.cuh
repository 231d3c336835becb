// What the kernels of benchmarks/gpu_constants and gpu_mixture have in common.
#ifndef BSPARSE_BENCHMARKS_GPU_CONSTANTS_CUH_
#define BSPARSE_BENCHMARKS_GPU_CONSTANTS_CUH_

#include <cstdint>

// Hopper's own instructions exist in code for sm_90a alone.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define HOPPER 1
#else
#define HOPPER 0
#endif

namespace bsparse {

__device__ __forceinline__ uint32_t hash(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

// Two random bfloat16 numbers of either sign between 1/4 and 1: 1/4 plus a random sign, low bit of
// the exponent, and fraction. As float32, one such number.
__device__ __forceinline__ uint32_t random_pair(uint32_t seed) { return 0x3e803e80u + (hash(seed) & 0x80ff80ffu); }

// The same bytes into the same place of all CTAs of a cluster whose bits are set; multiples of 16.
__device__ __forceinline__ void copy_bytes_to_cluster(uint32_t to, const void* from, uint32_t bytes,
                                                      uint32_t barrier, uint16_t ranks) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1], %2, [%3], %4;" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "h"(ranks)
      : "memory");
}

// How long something took, by both clocks: their ratio is the clock that the SMs ran at.
struct Clocks {
  long long cycles, nanoseconds;
};

__device__ __forceinline__ Clocks now() {
  Clocks clocks;
  clocks.cycles = clock64();
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(clocks.nanoseconds));
  return clocks;
}

// Since `begin`.
__device__ __forceinline__ void tell(const Clocks& begin, Clocks* out) {
  const Clocks end = now();
  *out = {end.cycles - begin.cycles, end.nanoseconds - begin.nanoseconds};
}

}  // namespace bsparse

#endif  // BSPARSE_BENCHMARKS_GPU_CONSTANTS_CUH_
