// Elements and parameters, read and written as float32.
#ifndef BSPARSE_CUDA_ELEMENTS_CUH_
#define BSPARSE_CUDA_ELEMENTS_CUH_

#include <cstdint>

#include "cuda/dtype.cuh"
#include "cuda/ptx.cuh"

namespace bsparse {

// kCount neighbours, moved by one instruction: their address is a multiple of their size.
template <class Element, int kCount>
struct alignas(kCount * sizeof(Element)) Elements {
  Element values[kCount];
};

template <int kCount, class Element>
__device__ __forceinline__ void load_elements(const Element* from, float (&to)[kCount]) {
  const auto elements = *reinterpret_cast<const Elements<Element, kCount>*>(from);
#pragma unroll
  for (int e = 0; e < kCount; ++e) to[e] = to_float(elements.values[e]);
}

template <int kCount, class Element>
__device__ __forceinline__ void store_elements(const float (&from)[kCount], Element* to) {
  Elements<Element, kCount> elements;
#pragma unroll
  for (int e = 0; e < kCount; ++e) elements.values[e] = from_float<Element>(from[e]);
  *reinterpret_cast<Elements<Element, kCount>*>(to) = elements;
}

// A vector of parameters beside activations of type Element: stored like them, or in float32.
template <class Element>
struct Parameters {
  const void* data;
  bool is_float;

  __device__ __forceinline__ float operator[](int64_t i) const {
    return is_float ? static_cast<const float*>(data)[i]
                    : to_float(static_cast<const Element*>(data)[i]);
  }

  // kCount neighbours from i on; with kCount > 1 they lie at a multiple of 16 bytes.
  template <int kCount>
  __device__ __forceinline__ void load(int64_t i, float (&to)[kCount]) const {
    if (!is_float) return load_elements(static_cast<const Element*>(data) + i, to);
    constexpr int kStep = kCount < 4 ? kCount : 4;
#pragma unroll
    for (int e = 0; e < kCount; e += kStep) {
      float step[kStep];
      load_elements(static_cast<const float*>(data) + i + e, step);
#pragma unroll
      for (int s = 0; s < kStep; ++s) to[e + s] = step[s];
    }
  }

  // Asks for parameter i to be brought into the L2 cache.
  __device__ __forceinline__ void prefetch(int64_t i) const {
    ptx::prefetch(is_float ? static_cast<const void*>(static_cast<const float*>(data) + i)
                           : static_cast<const Element*>(data) + i);
  }
};

template <class Element>
struct MutableParameters {
  void* data;
  bool is_float;

  __device__ __forceinline__ void store(int64_t i, float value) const {
    if (is_float) {
      static_cast<float*>(data)[i] = value;
    } else {
      static_cast<Element*>(data)[i] = from_float<Element>(value);
    }
  }
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_ELEMENTS_CUH_
