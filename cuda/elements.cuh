// Elements and parameters, read and written as float32.
#ifndef BSPARSE_CUDA_ELEMENTS_CUH_
#define BSPARSE_CUDA_ELEMENTS_CUH_

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda/dtype.cuh"
#include "cuda/ptx.cuh"

namespace bsparse {

// What an instruction moves kBytes as. A struct of 16-bit elements it might take one by one.
template <int kBytes>
using Moved = std::conditional_t<
    kBytes == 16, uint4,
    std::conditional_t<kBytes == 8, uint2, std::conditional_t<kBytes == 4, uint32_t, uint16_t>>>;

// kCount neighbours, moved by one instruction: their address is a multiple of their size.
template <int kCount, class Element>
__device__ __forceinline__ void load_elements(const Element* from, float (&to)[kCount]) {
  Element elements[kCount];
  const auto moved = *reinterpret_cast<const Moved<sizeof(elements)>*>(from);
  static_assert(sizeof(moved) == sizeof(elements));
  memcpy(elements, &moved, sizeof(elements));
#pragma unroll
  for (int e = 0; e < kCount; ++e) to[e] = to_float(elements[e]);
}

template <int kCount, class Element>
__device__ __forceinline__ void store_elements(const float (&from)[kCount], Element* to) {
  Element elements[kCount];
#pragma unroll
  for (int e = 0; e < kCount; ++e) elements[e] = from_float<Element>(from[e]);
  Moved<sizeof(elements)> moved;
  static_assert(sizeof(moved) == sizeof(elements));
  memcpy(&moved, elements, sizeof(elements));
  *reinterpret_cast<Moved<sizeof(elements)>*>(to) = moved;
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
