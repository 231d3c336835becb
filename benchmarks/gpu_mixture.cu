// How long a GPU takes for what a product asks of it, if nothing had to wait for anything else: its tensor cores, its
// L2 cache, its copy engines and its memory at the same time, each with as much to do as in the product, at the clock
// that power leaves for all of it together. gpu_mixture.py counts how much that is.
//
// A CTA has two warpgroups that multiply m64n256 of what they find in a ring of random numbers, and a thread that copies
// into that ring and out of it. They do not wait for each other, so results mean nothing.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "benchmarks/gpu_constants.cuh"
#include "cuda/ptx.cuh"
#include "cuda/sm90/ptx.cuh"

// What each CTA does. Two of them make a cluster.
struct bsparse_mixture {
  int32_t ctas;      // an even number
  int32_t tf32;      // 0: bfloat16
  int32_t products;  // of each of two warpgroups, a multiple of 16
  int32_t padding;   // of products: those by zeros, which draw less power
  // Pieces of 16 KB, of which at least 12 are received:
  int32_t own;     // that it alone receives
  int32_t shared;  // that both of the pair receive, half of each read by either
  int32_t fresh;   // of own and shared: those that come from memory, the others from L2
  int32_t stored;  // that it writes, no more than it receives
};

namespace {

namespace ptx = bsparse::ptx;
using bsparse::Clocks;

constexpr int kConsumerThreads = 256;
constexpr int kThreads = kConsumerThreads + 64;  // a warp that copies, and one that frees what has arrived
constexpr int kPiece = 16 << 10;
constexpr int kStage = 3 * kPiece;  // 128 outputs and 256 batch entries, rows of 128 bytes
constexpr int kStages = 4;
constexpr int kRing = 3 * kStages;  // pieces
constexpr int kOutputRows = 64;     // of a warpgroup
constexpr int kZeroBytes = kOutputRows * 128;
constexpr int kShared = 1024 + kRing * kPiece + kZeroBytes;
constexpr int kCachedPieces = 8 << 6;  // 8 MB: x of a batch tile, and weights
constexpr int kStride = 37;            // from one of these to the next
constexpr uint64_t kLayout = ptx::operand_layout(ptx::Swizzle::k128Bytes, 16, 1024);

// Says of one after the other of `count` whether it is one of `some` that are spread evenly over them.
class Spread {
 public:
  __device__ __forceinline__ Spread(uint32_t some, uint32_t count) : some_(some), count_(count) {}
  __device__ __forceinline__ bool next() {
    sum_ += some_;
    const bool falls = sum_ >= count_;
    if (falls) sum_ -= count_;
    return falls;
  }

 private:
  uint32_t some_, count_, sum_ = 0;
};

__device__ __forceinline__ void store(char* to, uint32_t from, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes)
               : "memory");
  ptx::bulk_commit();
  asm volatile("cp.async.bulk.wait_group.read 6;" ::: "memory");
}

// What depends on all products of this warpgroup.
template <class Element>
__device__ __forceinline__ float multiply(const bsparse_mixture& mixture, uint32_t ring) {
  constexpr int kGroup = 16;        // products between two waits
  constexpr int kSteps = 128 / 32;  // products of a stage: 32 bytes of each row
  const uint32_t a = ring + threadIdx.x / 128 * (kOutputRows * 128);
  const uint32_t b = ring + 2 * kOutputRows * 128;
  const uint32_t zeros = ring + kRing * kPiece;
  Spread padding(mixture.padding, mixture.products);
  float d[128] = {};
  uint32_t stage = 0;
  for (int i = 0; i < mixture.products; i += kGroup) {
    ptx::wgmma_fence();
#pragma unroll
    for (int j = 0; j < kGroup; j += kSteps) {
      const uint32_t weights = padding.next() ? zeros : a + stage * kStage;
      const uint32_t x = b + stage * kStage;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        ptx::wgmma<Element, 256, 0, 0>(d, ptx::operand(kLayout, weights + 32 * step),
                                       ptx::operand(kLayout, x + 32 * step));
      }
      stage = stage == kStages - 1 ? 0 : stage + 1;
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();
  }
  ptx::wgmma_wait_for(d);
  float sum = 0;
  for (int i = 0; i < 128; ++i) sum += d[i];
  return sum;
}

// `from`: the cached pieces, and behind them the fresh ones.
template <class Element>
__global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(kThreads, 1)
    run_mixture(const bsparse_mixture mixture, const char* from, char* to, Clocks* clocks) {
#if HOPPER
  const Clocks begin = bsparse::now();
  extern __shared__ char raw[];
  __shared__ __align__(8) uint64_t full[kRing], empty[kRing], filled;
  const uint32_t ring = (ptx::shared_address(raw) + 1023) & ~1023u;
  for (int i = threadIdx.x; i < kZeroBytes / 4; i += blockDim.x) ptx::store_shared(ring + kRing * kPiece + 4 * i, 0);
  ptx::fence_async_proxy();
  if (threadIdx.x == 0) {
    for (int i = 0; i < kRing; ++i) {
      ptx::barrier_init(ptx::shared_address(&full[i]), 1);
      ptx::barrier_init(ptx::shared_address(&empty[i]), 2);
    }
    ptx::barrier_init(ptx::shared_address(&filled), kRing);
    ptx::barrier_init_fence();
  }
  ptx::cluster_barrier();
  const uint32_t rank = ptx::rank_in_cluster();
  const uint32_t pieces = mixture.own + mixture.shared;
  if (threadIdx.x < kConsumerThreads) {
    // Otherwise sums of what happens to be there might be no numbers, for which less power is drawn.
    ptx::barrier_wait(ptx::shared_address(&filled), 0);
    const float sum = multiply<Element>(mixture, ring);
    if (sum == 0.123f) *clocks = {};  // hardly ever, but the compiler does not know
    if (blockIdx.x == 0 && threadIdx.x == 0) bsparse::tell(begin, clocks);
  } else if (threadIdx.x == kConsumerThreads) {
    // Of a piece that the pair shares each reads a half; both ask for the same.
    const uint32_t half = rank * (kPiece / 2);
    const int64_t step = int64_t{gridDim.x} * kPiece;
    int64_t of_pair = int64_t{kCachedPieces} * kPiece + blockIdx.x / 2 * kPiece + half;
    int64_t of_this = int64_t{kCachedPieces} * kPiece + blockIdx.x * kPiece;
    char* output = to + blockIdx.x * kPiece;
    uint32_t cached_of_pair = bsparse::hash(blockIdx.x / 2) % kCachedPieces;
    uint32_t cached_of_this = bsparse::hash(blockIdx.x + gridDim.x) % kCachedPieces;
    Spread shared(mixture.shared, pieces), of_memory(mixture.fresh, pieces), stores(mixture.stored, pieces);
    uint32_t slot = 0, parity = 1;
    for (uint32_t i = 0; i < pieces; ++i) {
      const uint32_t barrier = ptx::shared_address(&full[slot]);
      const uint32_t place = ring + slot * kPiece;
      const bool fresh = of_memory.next();
      ptx::barrier_wait(ptx::shared_address(&empty[slot]), parity);
      ptx::barrier_arrive_expect(barrier, kPiece);
      if (shared.next()) {
        const char* const piece = from + (fresh ? of_pair : int64_t{cached_of_pair} * kPiece + half);
        bsparse::copy_bytes_to_cluster(place + half, piece, kPiece / 2, barrier, 3);
        cached_of_pair = (cached_of_pair + kStride) % kCachedPieces;
      } else {
        const char* const piece = from + (fresh ? of_this : int64_t{cached_of_this} * kPiece);
        ptx::copy_bytes_to_shared(place, piece, kPiece, barrier);
        cached_of_this = (cached_of_this + kStride) % kCachedPieces;
      }
      if (fresh) {
        of_pair += step;
        of_this += step;
      }
      if (stores.next()) {
        store(output, place, kPiece);
        output += step;
      }
      if (++slot == kRing) slot = 0, parity ^= 1;
    }
    ptx::bulk_wait();
    if (blockIdx.x == 0) bsparse::tell(begin, clocks + 1);
  } else if (threadIdx.x == kConsumerThreads + 32) {
    for (uint32_t i = 0; i < pieces; ++i) {
      const uint32_t slot = i % kRing;
      ptx::barrier_wait(ptx::shared_address(&full[slot]), (i / kRing) & 1);
      if (i < kRing) ptx::barrier_arrive(ptx::shared_address(&filled));
      const uint32_t barrier = ptx::shared_address(&empty[slot]);
      for (uint32_t cta = 0; cta < 2; ++cta) ptx::barrier_arrive_in_cluster(ptx::address_in(barrier, cta));
    }
  }
  ptx::cluster_barrier();
#endif
}

__global__ void fill(uint32_t* words, int64_t count) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    words[i] = bsparse::random_pair(static_cast<uint32_t>(i));
  }
}

template <class Element>
cudaError_t launch(const bsparse_mixture& mixture, const void* from, void* to, Clocks* clocks, cudaStream_t stream) {
  const auto kernel = run_mixture<Element>;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (error != cudaSuccess) return error;
  kernel<<<mixture.ctas, kThreads, kShared, stream>>>(mixture, static_cast<const char*>(from),
                                                      static_cast<char*>(to), clocks);
  return cudaGetLastError();
}

}  // namespace

#define MIXTURE_API __attribute__((visibility("default")))

extern "C" {

// Bytes that bsparse_mixture_run reads and writes.
MIXTURE_API void bsparse_mixture_bytes(const bsparse_mixture* mixture, int64_t* from, int64_t* to) {
  *from = kPiece * (int64_t{mixture->fresh} * mixture->ctas + kCachedPieces);
  *to = kPiece * (int64_t{mixture->stored} * mixture->ctas);
}

// Random numbers. Returns a cudaError_t; `bytes` is a multiple of 4.
MIXTURE_API int bsparse_mixture_fill(void* from, int64_t bytes, cudaStream_t stream) {
  fill<<<1024, 256, 0, stream>>>(static_cast<uint32_t*>(from), bytes / 4);
  return cudaGetLastError();
}

// Returns a cudaError_t. `clocks`, of the device: cycles and nanoseconds of the first CTA's products, and of its copies.
MIXTURE_API int bsparse_mixture_run(const bsparse_mixture* mixture, const void* from, void* to, bsparse::Clocks* clocks,
                                    cudaStream_t stream) {
  return mixture->tf32 != 0 ? launch<float>(*mixture, from, to, clocks, stream)
                            : launch<__nv_bfloat16>(*mixture, from, to, clocks, stream);
}

}  // extern "C"
