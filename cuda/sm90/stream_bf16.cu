#include "cuda/sm90/stream.cuh"

namespace bsparse {

Kernel sm90_stream_bf16(const MatmulVariant& variant) { return sm90_stream_for<Bf16>(variant); }

}  // namespace bsparse
