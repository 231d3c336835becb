// From float32 sums to the weight gradient: gate, addend, rounding.
#ifndef BSPARSE_CUDA_DW_OUTPUT_CUH_
#define BSPARSE_CUDA_DW_OUTPUT_CUH_

#include <cstdint>

#include "cuda/dtype.cuh"
#include "cuda/elements.cuh"

namespace bsparse {

// dw[b] = gate[b] * sum + addend[b]. An element of the addend is read by the thread that stores the
// same one of dw, before it does, so both may be one tensor.
struct DwOutput {
  void* dw;            // (blocks, bs, bs), in float32 or in the element type that store() is given
  const void* addend;  // like dw, or null
  const float* gate;   // (blocks) or null
  bool is_float;

  __device__ __forceinline__ float scale(int64_t block) const {
    return gate == nullptr ? 1.0f : gate[block];
  }

  // Two neighbours, from element `place` of dw on.
  template <class Element>
  __device__ __forceinline__ void store(int64_t place, float scale, float first,
                                        float second) const {
    first = scaled(scale, first);
    second = scaled(scale, second);
    if (is_float) {
      store_as<float>(place, first, second);
    } else {
      store_as<Element>(place, first, second);
    }
  }

  // kCount neighbours at once; Element is the type of dw. That many must be aligned, also in the addend.
  template <class Element, int kCount>
  __device__ __forceinline__ void store_vector(int64_t place, float scale,
                                               const float (&sums)[kCount]) const {
    float values[kCount];
#pragma unroll
    for (int e = 0; e < kCount; ++e) values[e] = scaled(scale, sums[e]);
    if (addend != nullptr) {
      float more[kCount];
      load_elements(static_cast<const Element*>(addend) + place, more);
#pragma unroll
      for (int e = 0; e < kCount; ++e) values[e] += more[e];
    }
    store_elements(values, static_cast<Element*>(dw) + place);
  }

 private:
  // A gate of 0 gives 0 whatever the sum.
  static __device__ __forceinline__ float scaled(float scale, float sum) {
    return scale == 0.0f ? 0.0f : scale * sum;
  }

  template <class Element>
  __device__ __forceinline__ void store_as(int64_t place, float first, float second) const {
    float values[] = {first, second};
    if (addend != nullptr) {
      float more[2];
      load_elements(static_cast<const Element*>(addend) + place, more);
      for (int e = 0; e < 2; ++e) values[e] += more[e];
    }
    store_elements(values, static_cast<Element*>(dw) + place);
  }
};

// A block, or a square of a larger one: cell `number`, counted along the rows of one block after the other.
struct DwCell {
  int64_t weight;  // the block
  int64_t first;   // element of dw
  int block_size;

  __device__ __forceinline__ DwCell(int number, int block_size, int cell)
      : block_size(block_size) {
    const int cells = block_size / cell;
    weight = number / (cells * cells);
    const int place = number % (cells * cells);
    first = weight * block_size * block_size + place / cells * cell * block_size +
            place % cells * cell;
  }

  __device__ __forceinline__ int64_t element(int input, int output) const {
    return first + input * block_size + output;
  }
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_DW_OUTPUT_CUH_
