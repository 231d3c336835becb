#include "cuda/early_launch.cuh"
#include "cuda/support_kernels.h"

namespace bsparse {
namespace {

constexpr int kWarpsPerCta = 8;

// One warp an item.
__global__ void compact_entries_kernel(const __grid_constant__ CompactEntries args) {
  follow_kernel_before();
  const int64_t index = int64_t{blockIdx.x} * kWarpsPerCta + threadIdx.x / 32;
  if (index >= args.num_items) return;
  const int lane = threadIdx.x % 32;
  int4 item = args.items[index];  // out_block, first, end, partial
  int kept = item.y;
  for (int begin = item.y; begin < item.z; begin += 32) {
    int2 entry = make_int2(-1, -1);
    bool live = false;
    if (begin + lane < item.z) {
      entry = args.entries[begin + lane];
      live = args.gate[entry.y] != 0.0f;
    }
    const uint32_t mask = __ballot_sync(0xffffffffu, live);
    if (live) args.out_entries[kept + __popc(mask & ((1u << lane) - 1))] = entry;
    kept += __popc(mask);
  }
  item.z = kept;
  if (lane == 0) args.out_items[index] = item;
}

}  // namespace

cudaError_t launch_compact_entries(const CompactEntries& args, cudaStream_t stream) {
  const unsigned ctas = (args.num_items - 1) / kWarpsPerCta + 1;
  launch_early(&compact_entries_kernel, dim3(ctas), dim3(32 * kWarpsPerCta), stream, args);
  return cudaGetLastError();
}

}  // namespace bsparse
