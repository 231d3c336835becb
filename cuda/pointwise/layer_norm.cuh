// What layer norm and its gradient share: how rows and columns of activations are walked and
// summed.
//
// Activations are a row-major matrix. With features last a row is a batch entry, and the segments
// of all rows follow each other: a CTA sums one, and keeps it in registers; where there are few and
// long ones several CTAs sum the same, and each writes a part. With features first a batch entry is a
// column, and pointwise/column_sums.cuh says how they are summed: a third kernel uses the sums.
#ifndef BSPARSE_CUDA_POINTWISE_LAYER_NORM_CUH_
#define BSPARSE_CUDA_POINTWISE_LAYER_NORM_CUH_

#include <algorithm>
#include <cstdint>

#include "cuda/elements.cuh"
#include "cuda/pointwise/column_sums.cuh"

namespace bsparse {

// ---- rows ----

// Leaves a thread the registers that its share of a row takes.
constexpr int kMaxRowThreads = 768;
constexpr int64_t kMaxRowCtas = 1 << 20;

// One SM alone takes long to read the parameters of a long row, and to write it.
constexpr int64_t kSharedRows = 16;
constexpr int64_t kSharedRowSize = 4096;
constexpr int kRowSharers = 8;

struct Sums {
  float a, b;
};

__device__ __forceinline__ Sums& operator+=(Sums& sums, const Sums& more) {
  sums.a += more.a;
  sums.b += more.b;
  return sums;
}

__device__ __forceinline__ Sums warp_sum(Sums sums) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    sums.a += __shfl_xor_sync(0xffffffffu, sums.a, step);
    sums.b += __shfl_xor_sync(0xffffffffu, sums.b, step);
  }
  return sums;
}

// Over all threads of the CTA, a multiple of 32; all of them get the sums. `shared` holds 32, and
// may be used again at once.
__device__ __forceinline__ Sums cta_sum(Sums sums, Sums* shared) {
  sums = warp_sum(sums);
  const int lane = threadIdx.x % 32;
  if (lane == 0) shared[threadIdx.x / 32] = sums;
  __syncthreads();
  sums = lane < blockDim.x / 32 ? shared[lane] : Sums{0.0f, 0.0f};
  sums = warp_sum(sums);
  __syncthreads();
  return sums;
}

// One thread's share of a row, kCount neighbours at a time: kCached of them in registers, or with
// kCached 0 read again each time.
template <class Element, int kCount, int kCached>
class RowShare {
 public:
  __device__ __forceinline__ RowShare(const Element* row, int64_t size)
      : row_(row), groups_(size / kCount) {
    if constexpr (kCached > 0) {
#pragma unroll
      for (int i = 0; i < kCached; ++i) {
        const int64_t group = threadIdx.x + i * int64_t{blockDim.x};
        if (group < groups_) {
          cached_[i] = *reinterpret_cast<const Group*>(row_ + group * kCount);
        }
      }
    }
  }

  // Calls f(first, values) with the place in the row of the first of kCount values.
  template <class F>
  __device__ __forceinline__ void for_each(const F& f) const {
    for_each_with(*this, [&](int64_t first, const float (&values)[kCount],
                             const float (&)[kCount]) { f(first, values); });
  }

  // The same for two rows of one size: f(first, values, other's values).
  template <class F>
  __device__ __forceinline__ void for_each_with(const RowShare& other, const F& f) const {
    if constexpr (kCached > 0) {
#pragma unroll
      for (int i = 0; i < kCached; ++i) {
        const int64_t group = threadIdx.x + i * int64_t{blockDim.x};
        if (group < groups_) call(f, group, renewed(cached_[i]), renewed(other.cached_[i]));
      }
    } else {
      for (int64_t group = threadIdx.x; group < groups_; group += blockDim.x) {
        call(f, group, *reinterpret_cast<const Group*>(row_ + group * kCount),
             *reinterpret_cast<const Group*>(other.row_ + group * kCount));
      }
    }
  }

 private:
  // kCount neighbours, loaded by one instruction.
  struct alignas(kCount * sizeof(Element)) Group {
    Element values[kCount];
  };

  // A copy whose origin the compiler does not see: it would keep each pass's float32 numbers for
  // the next pass, which takes twice the registers, and spill.
  static __device__ __forceinline__ Group renewed(Group group) {
    static_assert(sizeof(Group) == sizeof(uint4));
    auto& words = reinterpret_cast<uint4&>(group);
    asm volatile("" : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w));
    return group;
  }

  template <class F>
  static __device__ __forceinline__ void call(const F& f, int64_t group, const Group& mine,
                                              const Group& others) {
    float values[kCount], other_values[kCount];
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      values[e] = to_float(mine.values[e]);
      other_values[e] = to_float(others.values[e]);
    }
    f(group * kCount, values, other_values);
  }

  const Element* row_;
  int64_t groups_;
  Group cached_[kCached > 0 ? kCached : 1];
};

// How rows of a size are shared out. Aligned rows go through registers by 16 bytes; what is too
// long for them, or begins anywhere, is read once for each pass.
template <class Element>
struct RowPolicy {
  static constexpr int kVector = 16 / sizeof(Element);

  int cached;
  int threads;
  bool vectors;

  RowPolicy(int64_t size, bool aligned) : vectors(aligned && size % kVector == 0) {
    const int64_t groups = vectors ? size / kVector : size;
    cached = groups <= 256 ? 1 : groups <= 1024 ? 2 : 3;
    if (!vectors || groups > 3 * kMaxRowThreads) cached = 0;
    const int64_t wanted = (groups - 1) / (cached == 0 ? 4 : cached) + 1;
    threads = static_cast<int>(std::min<int64_t>((wanted + 31) / 32 * 32, kMaxRowThreads));
  }
};

// Calls launch with the row policy's numbers as types: launch(Count<V>(), Count<C>()).
template <int kValue>
struct Count {
  static constexpr int value = kValue;
};

template <class Element, class Launch>
void with_row_policy(const RowPolicy<Element>& policy, const Launch& launch) {
  constexpr Count<RowPolicy<Element>::kVector> vector;
  if (!policy.vectors) return launch(Count<1>(), Count<0>());
  switch (policy.cached) {
    case 1:
      return launch(vector, Count<1>());
    case 2:
      return launch(vector, Count<2>());
    case 3:
      return launch(vector, Count<3>());
    default:
      return launch(vector, Count<0>());
  }
}

// ---- what comes between a row's norm and relu ----

enum class Operand { kNone, kMultiplier, kAddend };

// A multiplier or an addend of a row: of every stride-th of its numbers from the first on.
template <class Element>
struct RowOperand {
  Element* data;  // of the row
  uint32_t stride;

  // Of the kCount numbers from `first` on; `neutral` where there is none.
  template <int kCount>
  __device__ __forceinline__ void load(int64_t first, float neutral, float (&to)[kCount]) const {
    if (stride == 1) return load_elements(data + first, to);
    for_each<kCount>(first, [&](int e, uint32_t at, bool present) {
      to[e] = present ? to_float(data[at]) : neutral;
    });
  }

  template <int kCount>
  __device__ __forceinline__ void store(int64_t first, const float (&from)[kCount]) const {
    if (stride == 1) return store_elements(from, data + first);
    for_each<kCount>(first, [&](int e, uint32_t at, bool present) {
      if (present) data[at] = from_float<Element>(from[e]);
    });
  }

 private:
  template <int kCount, class F>
  __device__ __forceinline__ void for_each(int64_t first, const F& f) const {
    uint32_t at = static_cast<uint32_t>(first) / stride;
    uint32_t rest = static_cast<uint32_t>(first) - at * stride;
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      f(e, at, rest == 0);
      if (++rest == stride) {
        rest = 0;
        ++at;
      }
    }
  }
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_POINTWISE_LAYER_NORM_CUH_
