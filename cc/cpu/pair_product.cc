// The product of bfloat16 pairs by VDPBF16PS.
//
// Written with intrinsics because Highway 1.0.3 has no target with this instruction: its
// ReorderWidenMulAccumulate widens to float32 first, which gives up the factor of two that the
// instruction is for. Everything around this product is Highway's. The instruction takes subnormal
// bfloat16 numbers (below 1.2e-38) for zero, as every user of it does.

#include <cstdint>
#include <type_traits>

#include "cc/cpu/kernels.h"
#include "hwy/base.h"

#if HWY_ARCH_X86_64 && (HWY_COMPILER_GCC_ACTUAL >= 1000 || HWY_COMPILER_CLANG >= 900)

#include <immintrin.h>

#if HWY_COMPILER_CLANG
#pragma clang attribute push(                                                     \
    __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,fma")
#endif

namespace bsparse {
namespace avx512_bf16 {

#include "cc/cpu/product-inl.h"

struct FullOps {
  using Elem = BFloat16Pair;
  using Stored = BFloat16;
  using Sum = float;
  using V = __m512;
  using BVector = __m512i;
  static constexpr int kLanes = 16;
  static constexpr int kRegisters = 32;
  static constexpr int kChains = 1;
  using Two = int64_t;

  static HWY_INLINE V Zero() { return _mm512_setzero_ps(); }
  static HWY_INLINE BVector Load(const Elem* p) { return _mm512_loadu_si512(p); }
  static HWY_INLINE V LoadSums(const Sum* p) { return _mm512_loadu_ps(p); }
  static HWY_INLINE BVector Broadcast(const Elem* p) {
    return _mm512_set1_epi32(static_cast<int>(p->bits));
  }
  static HWY_INLINE V MulAdd(BVector a, BVector b, V sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
  static HWY_INLINE V Add(V a, V b) { return _mm512_add_ps(a, b); }
  static HWY_INLINE void Store(V v, Sum* p) { _mm512_storeu_ps(p, v); }
  static HWY_INLINE BVector BroadcastTwo(const Two* p) { return _mm512_set1_epi64(*p); }
  static HWY_INLINE V AddTwos(V first, V second) {
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    return _mm512_add_ps(_mm512_permutex2var_ps(first, even, second),
                         _mm512_permutex2var_ps(first, odd, second));
  }
};

// For blocks of 8.
struct HalfOps {
  using Elem = BFloat16Pair;
  using Stored = BFloat16;
  using Sum = float;
  using V = __m256;
  using BVector = __m256i;
  static constexpr int kLanes = 8;
  static constexpr int kRegisters = 32;
  static constexpr int kChains = 2;  // two a cycle

  static HWY_INLINE V Zero() { return _mm256_setzero_ps(); }
  static HWY_INLINE BVector Load(const Elem* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static HWY_INLINE V LoadSums(const Sum* p) { return _mm256_loadu_ps(p); }
  static HWY_INLINE BVector Broadcast(const Elem* p) {
    return _mm256_set1_epi32(static_cast<int>(p->bits));
  }
  static HWY_INLINE V MulAdd(BVector a, BVector b, V sum) {
    return _mm256_dpbf16_ps(sum, (__m256bh)a, (__m256bh)b);
  }
  static HWY_INLINE V Add(V a, V b) { return _mm256_add_ps(a, b); }
  static HWY_INLINE void Store(V v, Sum* p) { _mm256_storeu_ps(p, v); }
};

void Multiply(const Product<BFloat16Pair>& product) {
  if (product.columns % FullOps::kLanes != 0) return MultiplyWith<HalfOps>(product);
  MultiplyWith<FullOps>(product);
}

void MultiplyEights(const ProductOfEights<BFloat16Pair>& product) {
  MultiplyEightsWith<FullOps>(product);
}

}  // namespace avx512_bf16
}  // namespace bsparse

#if HWY_COMPILER_CLANG
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace bsparse {

PairProducts FindPairProducts() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx512bf16")) return {};
  return {avx512_bf16::Multiply, avx512_bf16::MultiplyEights};
}

}  // namespace bsparse

#else  // no such compiler or machine

namespace bsparse {

PairProducts FindPairProducts() { return {}; }

}  // namespace bsparse

#endif
