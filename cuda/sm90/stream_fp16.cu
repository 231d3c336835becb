#include "cuda/sm90/stream.cuh"

namespace bsparse {

Kernel sm90_stream_fp16(const MatmulVariant& variant) { return sm90_stream_for<Fp16>(variant); }

}  // namespace bsparse
