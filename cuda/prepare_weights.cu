#include <algorithm>

#include "cuda/dtype.cuh"
#include "cuda/early_launch.cuh"
#include "cuda/support_kernels.h"
#include "cuda/with_element.cuh"

namespace bsparse {
namespace {

constexpr int kPrepareThreads = 256;
constexpr int64_t kMaxCtas = 1 << 16;
// Elements a thread takes at once: 16 bytes of a 16-bit type. Divides every block.
constexpr int kVector = 8;

template <class Element>
struct alignas(kVector * sizeof(Element)) Vector {
  Element values[kVector];
};

// A block whose gate is 0 becomes zeros, whatever it held: a NaN in it must not travel.
template <class In, class Out>
__global__ void prepare_weights_kernel(const Vector<In>* in, const float* gate, Vector<Out>* out,
                                       int64_t vectors, int block_vectors) {
  follow_kernel_before();
  for (int64_t v = int64_t{blockIdx.x} * kPrepareThreads + threadIdx.x; v < vectors;
       v += int64_t{gridDim.x} * kPrepareThreads) {
    const float scale = gate == nullptr ? 1.0f : gate[v / block_vectors];
    const Vector<In> from = in[v];
    Vector<Out> to;
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      const float value = to_float(from.values[e]);
      to.values[e] = from_float<Out>(scale == 0.0f ? 0.0f : scale * value);
    }
    out[v] = to;
  }
}

template <class In, class Out>
cudaError_t launch(const bsparse_prepare_weights_args& args, cudaStream_t stream) {
  const int block_vectors = args.block_size * args.block_size / kVector;
  const int64_t vectors = args.num_blocks * block_vectors;
  const auto ctas = static_cast<unsigned>(
      std::min<int64_t>((vectors + kPrepareThreads - 1) / kPrepareThreads, kMaxCtas));
  launch_early(&prepare_weights_kernel<In, Out>, dim3(ctas), dim3(kPrepareThreads), stream,
               static_cast<const Vector<In>*>(args.in), args.gate, static_cast<Vector<Out>*>(args.out),
               vectors, block_vectors);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_prepare_weights(const bsparse_prepare_weights_args& args, cudaStream_t stream) {
  return with_element(args.in_dtype, [&](auto in) {
    return with_element(args.out_dtype, [&](auto out) {
      return launch<typename decltype(in)::Type, typename decltype(out)::Type>(args, stream);
    });
  });
}

}  // namespace bsparse
