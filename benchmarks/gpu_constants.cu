// Measures the rates that bound a block-sparse product on the current GPU: those of its L2 cache,
// its copy engines, its memory and its tensor cores. Prints a table, and with a file's name writes
// them as JSON for benchmarks/gpu_matmul.py --constants.
//
//   make limits        builds it; a GPU host needs nothing but the driver to run it
//   .bazel/bin/benchmarks/gpu_constants [--only l2|rows|memory|arithmetic] [constants.json]
//
// Medians of event times. Operands are random: tensor cores fed with zeros draw less power and run
// at clocks that no product sees. What a GPU has no instruction for is left out.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <string>
#include <vector>

#include "benchmarks/gpu_constants.cuh"
#include "benchmarks/gpu_constants_rows.cuh"
#include "cuda/error.h"
#include "cuda/ptx.cuh"
#include "cuda/sm90/ptx.cuh"
#include "cuda/tensor_map.h"

namespace {

namespace ptx = bsparse::ptx;
using bsparse::hash;
using bsparse::Clocks;
using bsparse::now;
using bsparse::random_pair;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "gpu_constants: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

// ---- The L2 cache, by the copy engine ----

constexpr int kPiece = 16 << 10;  // bytes of a copy; smaller ones do not reach the limit
constexpr int kRing = 10;         // pieces in flight; their 160 KB leave one CTA an SM

// Every CTA receives `pieces` pieces, going round and round a region of `region_pieces`; `readers`
// neighbours have one region. In clusters each copies its part of a piece to all.
template <int kCluster>
__global__ void __launch_bounds__(64)
    read_l2_bulk(const char* data, int region_pieces, int readers, int pieces) {
#if HOPPER
  extern __shared__ __align__(128) char ring[];
  __shared__ __align__(8) uint64_t full[kRing], empty[kRing];
  if (threadIdx.x == 0) {
    for (int i = 0; i < kRing; ++i) {
      ptx::barrier_init(ptx::shared_address(&full[i]), 1);
      ptx::barrier_init(ptx::shared_address(&empty[i]), kCluster);
    }
    ptx::barrier_init_fence();
  }
  __syncthreads();
  if (kCluster > 1) ptx::cluster_barrier();
  constexpr uint32_t kPart = kPiece / kCluster;
  const uint32_t rank = kCluster > 1 ? ptx::rank_in_cluster() : 0;
  const int64_t region = blockIdx.x / readers;
  const char* const from = data + region * region_pieces * kPiece + rank * kPart;
  if (threadIdx.x == 0) {
    for (int i = 0; i < pieces; ++i) {
      const int stage = i % kRing;
      const uint32_t barrier = ptx::shared_address(&full[stage]);
      if (i >= kRing) {
        ptx::barrier_wait(ptx::shared_address(&empty[stage]), (i / kRing - 1) & 1);
      }
      ptx::barrier_arrive_expect(barrier, kPiece);
      const uint32_t to = ptx::shared_address(ring + stage * kPiece + rank * kPart);
      const char* const piece = from + int64_t{i % region_pieces} * kPiece;
      if (kCluster > 1) {
        bsparse::copy_bytes_to_cluster(to, piece, kPart, barrier, (1 << kCluster) - 1);
      } else {
        ptx::copy_bytes_to_shared(to, piece, kPart, barrier);
      }
    }
  } else if (threadIdx.x == 32) {
    for (int i = 0; i < pieces; ++i) {
      const int stage = i % kRing;
      ptx::barrier_wait(ptx::shared_address(&full[stage]), (i / kRing) & 1);
      const uint32_t barrier = ptx::shared_address(&empty[stage]);
      if (kCluster == 1) {
        ptx::barrier_arrive(barrier);
      } else {
        for (uint32_t to = 0; to < kCluster; ++to) {
          ptx::barrier_arrive_in_cluster(ptx::address_in(barrier, to));
        }
      }
    }
  }
  __syncthreads();
  if (kCluster > 1) ptx::cluster_barrier();  // nothing may arrive in a CTA that has left
#endif
}

// The same by ordinary loads of 16 bytes that pass by L1, each CTA from a region of its own.
__global__ void __launch_bounds__(512)
    read_l2_plain(const uint4* data, int64_t region, int rounds, uint32_t* out) {
  const uint4* const from = data + blockIdx.x * region;
  uint32_t sum = 0;
  for (int round = 0; round < rounds; ++round) {
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < region; i += blockDim.x) {
      const uint4 v = __ldcg(from + i);
      sum ^= v.x ^ v.y ^ v.z ^ v.w;
    }
  }
  if (sum == 0x12345678u) *out = sum;  // never, but the compiler does not know
}

// ---- Memory ----

__global__ void __launch_bounds__(512) copy(const uint4* from, uint4* to, int64_t size) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (; i + 3 * step < size; i += 4 * step) {
    uint4 v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = __ldcs(from + i + j * step);
#pragma unroll
    for (int j = 0; j < 4; ++j) __stcs(to + i + j * step, v[j]);
  }
  for (; i < size; i += step) __stcs(to + i, __ldcs(from + i));
}

// ---- Arithmetic ----

constexpr int kChains = 8;  // products under way in a warp

template <bool kTf32>
__global__ void __launch_bounds__(256) multiply_mma_sync(int rounds, float* out, Clocks* clocks) {
  const Clocks begin = now();
  const uint32_t seed = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
  uint32_t a[4], b[2];
  for (int i = 0; i < 4; ++i) a[i] = random_pair(seed + i);
  for (int i = 0; i < 2; ++i) b[i] = random_pair(seed + 4 + i);
  float d[kChains][4] = {};
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < kChains; ++i) {
      if constexpr (kTf32) {
        ptx::mma_tf32(d[i], a, b);
      } else {
        ptx::mma_bf16(d[i], a, b);
      }
    }
  }
  float sum = 0;
  for (int i = 0; i < kChains; ++i) sum += d[i][0] + d[i][1] + d[i][2] + d[i][3];
  if (sum == 0.123f) *out = sum;
  if (blockIdx.x == 0 && threadIdx.x == 0) bsparse::tell(begin, clocks);
}

__global__ void __launch_bounds__(256) multiply_ffma(int rounds, float* out, Clocks* clocks) {
  const Clocks begin = now();
  const float a = __uint_as_float(0x3f000000u | hash(threadIdx.x) >> 9);  // [1/2, 1)
  const float b = 1.0f - a;
  float d[kChains];
  for (int i = 0; i < kChains; ++i) d[i] = static_cast<float>(i);
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < kChains; ++i) d[i] = fmaf(d[i], a, b);
  }
  float sum = 0;
  for (int i = 0; i < kChains; ++i) sum += d[i];
  if (sum == 0.123f) *out = sum;
  if (blockIdx.x == 0 && threadIdx.x == 0) bsparse::tell(begin, clocks);
}

// Two warpgroups, each m64n256k16 on 64 rows of its own and 256 columns that both share, all 64
// deep with rows of 128 swizzled bytes: as the Hopper kernels of cuda/ have them.
constexpr int kWgmmaDepth = 64;
constexpr int kWgmmaBatch = 32;  // products between two waits
constexpr int kWgmmaShared = (2 * 64 + 256) * kWgmmaDepth * 2;
constexpr uint64_t kWgmmaLayout = ptx::operand_layout(ptx::Swizzle::k128Bytes, 16, 1024);

__global__ void __launch_bounds__(256) multiply_wgmma(int rounds, float* out, Clocks* clocks) {
#if HOPPER
  const Clocks begin = now();
  extern __shared__ __align__(1024) char operands[];
  for (int i = threadIdx.x; i < kWgmmaShared / 4; i += blockDim.x) {
    reinterpret_cast<uint32_t*>(operands)[i] = random_pair(i + blockIdx.x * kWgmmaShared);
  }
  ptx::fence_async_proxy();
  __syncthreads();
  const uint32_t from = ptx::shared_address(operands);
  const uint32_t a = from + threadIdx.x / 128 * (64 * kWgmmaDepth * 2);
  const uint32_t b = from + 2 * 64 * kWgmmaDepth * 2;
  float d[128] = {};
  for (int round = 0; round < rounds; ++round) {
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < kWgmmaBatch; ++i) {
      const uint32_t step = i % (kWgmmaDepth / 16) * 32;
      ptx::wgmma<__nv_bfloat16, 256, 0, 0>(d, ptx::operand(kWgmmaLayout, a + step),
                                           ptx::operand(kWgmmaLayout, b + step));
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait_for(d);
  }
  float sum = 0;
  for (int i = 0; i < 128; ++i) sum += d[i];
  if (sum == 0.123f) *out = sum;
  if (blockIdx.x == 0 && threadIdx.x == 0) bsparse::tell(begin, clocks);
#endif
}

// ---- The host ----

struct Result {
  std::string name;  // as benchmarks/gpu_limits.py knows it
  std::string words;
  double rate;
  double clock;   // of the SMs in Hz, or 0: not measured
  int row_bytes;  // where rows are counted, else 0
};

class Bench {
 public:
  Bench() {
    int id = 0;
    check(cudaGetDevice(&id), "asking for the current device");
    check(cudaGetDeviceProperties(&device_, id), "asking for its properties");
    check(cudaMalloc(&from_, kBytes), "allocating memory");
    check(cudaMalloc(&to_, kBytes), "allocating memory");
    check(cudaMalloc(&clocks_, sizeof(Clocks)), "allocating memory");
    check(cudaMemset(from_, 1, kBytes), "clearing memory");
    check(cudaEventCreate(&begin_), "creating an event");
    check(cudaEventCreate(&end_), "creating an event");
  }

  const cudaDeviceProp& device() const { return device_; }
  const std::vector<Result>& results() const { return results_; }
  bool hopper() const { return device_.major == 9 && device_.minor == 0; }

  void measure_l2() {
    if (hopper()) {
      bulk<1>("l2", "L2 to SM, every CTA its own data", 1);
      bulk<1>("l2_shared_2", "the same, two neighbours the same data", 2);
      bulk<1>("l2_shared_4", "the same, four neighbours the same data", 4);
      bulk<2>("l2_multicast_2", "the same, sent to both CTAs of a cluster", 2);
      bulk<4>("l2_multicast_4", "the same, sent to all four CTAs of a cluster", 4);
    }
    const int ctas = 4 * device_.multiProcessorCount;
    const int64_t region =
        std::max<int64_t>(1, footprint() / ctas / static_cast<int64_t>(sizeof(uint4)) / 512) * 512;
    const int rounds = 200;
    const double seconds = time([&] {
      read_l2_plain<<<ctas, 512>>>(static_cast<const uint4*>(from_), region, rounds,
                                   static_cast<uint32_t*>(to_));
    });
    add("l2_plain", "L2 to SM, loads of 16 bytes, own data",
        static_cast<double>(region) * sizeof(uint4) * ctas * rounds / seconds, 0);
  }

  void measure_rows() {
    if (!hopper()) return;
    rows<32>("tma_rows_32", "L2 to SM, boxes with rows of 32 bytes");
    // As fast as L2 gives their bytes.
    rows<64>("tma_rows_64", "the same, rows of 64 bytes");
    rows<128>("tma_rows_128", "the same, rows of 128 bytes");
  }

  void measure_memory() {
    const double seconds = time([&] {
      copy<<<8 * device_.multiProcessorCount, 512>>>(static_cast<const uint4*>(from_),
                                                     static_cast<uint4*>(to_),
                                                     kBytes / static_cast<int64_t>(sizeof(uint4)));
    });
    add("dram", "memory, a copy, read and written", 2.0 * kBytes / seconds, 0);
  }

  void measure_arithmetic() {
    auto* const out = static_cast<float*>(to_);
    const int ctas = 4 * device_.multiProcessorCount;
    const int rounds = 20000;
    const double warps = ctas * 8.0;
    double seconds = time([&] { multiply_mma_sync<false><<<ctas, 256>>>(rounds, out, clocks_); });
    add("mma_sync_bf16", "mma.sync m16n8k16 bf16", warps * rounds * kChains * 4096 / seconds,
        clock());
    seconds = time([&] { multiply_mma_sync<true><<<ctas, 256>>>(rounds, out, clocks_); });
    add("mma_sync_tf32", "mma.sync m16n8k8 TF32", warps * rounds * kChains * 2048 / seconds,
        clock());
    seconds = time([&] { multiply_ffma<<<ctas, 256>>>(rounds, out, clocks_); });
    add("ffma", "float32 multiply-add", warps * 32 * rounds * kChains * 2 / seconds, clock());
    if (!hopper()) return;
    check(cudaFuncSetAttribute(multiply_wgmma, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               kWgmmaShared),
          "setting up wgmma");
    const int wgmma_rounds = 1000;
    seconds = time([&] {
      multiply_wgmma<<<device_.multiProcessorCount, 256, kWgmmaShared>>>(wgmma_rounds, out,
                                                                         clocks_);
    });
    const double warpgroups = 2.0 * device_.multiProcessorCount;
    add("wgmma_bf16", "wgmma m64n256k16 bf16",
        warpgroups * wgmma_rounds * kWgmmaBatch * 2 * 64 * 256 * 16 / seconds, clock());
  }

 private:
  static constexpr int64_t kBytes = int64_t{1} << 30;

  // Bytes that are read over and over, and stay in L2.
  int64_t footprint() const { return int64_t{device_.l2CacheSize} * 3 / 5; }

  void add(const char* name, const char* words, double rate, double clock, int row_bytes = 0) {
    results_.push_back({name, words, rate, clock, row_bytes});
  }

  // Median seconds of a launch, the first left out.
  template <class Launch>
  double time(const Launch& launch) {
    std::vector<double> seconds;
    for (int i = 0; i < 10; ++i) {
      check(cudaEventRecord(begin_), "recording an event");
      launch();
      check(cudaGetLastError(), "launching");
      check(cudaEventRecord(end_), "recording an event");
      check(cudaEventSynchronize(end_), "running");
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, begin_, end_), "reading events");
      if (i > 0) seconds.push_back(milliseconds * 1e-3);
    }
    std::nth_element(seconds.begin(), seconds.begin() + seconds.size() / 2, seconds.end());
    return seconds[seconds.size() / 2];
  }

  // Hz of the SMs in the last kernel that told.
  double clock() const {
    Clocks clocks;
    check(cudaMemcpy(&clocks, clocks_, sizeof(clocks), cudaMemcpyDeviceToHost), "copying");
    return clocks.nanoseconds > 0 ? 1e9 * static_cast<double>(clocks.cycles) /
                                        static_cast<double>(clocks.nanoseconds)
                                  : 0;
  }

  template <int kCluster>
  void bulk(const char* name, const char* words, int readers) {
    const int pieces = 20000;
    const auto kernel = read_l2_bulk<kCluster>;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               kRing * kPiece),
          "setting up bulk copies");
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {kCluster, 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = kCluster;
    config.blockDim = 64;
    config.dynamicSmemBytes = kRing * kPiece;
    config.attrs = &attribute;
    config.numAttrs = 1;
    int regions = device_.multiProcessorCount / readers;
    if (kCluster > 1) {
      check(cudaOccupancyMaxActiveClusters(&regions, kernel, &config), "asking for clusters");
    }
    const int ctas = regions * readers;
    const int region_pieces =
        static_cast<int>(std::max<int64_t>(1, footprint() / kPiece / regions));
    config.gridDim = static_cast<unsigned>(ctas);
    const auto* const data = static_cast<const char*>(from_);
    const double seconds = time([&] {
      check(cudaLaunchKernelEx(&config, kernel, data, region_pieces, readers, pieces),
            "launching bulk copies");
    });
    add(name, words, static_cast<double>(kPiece) * pieces * ctas / seconds, 0);
  }

  // Rows a second. What is copied is checked first.
  template <int kRowBytes>
  void rows(const char* name, const char* words) {
    const int ctas = device_.multiProcessorCount;
    const int region = static_cast<int>(
        std::max<int64_t>(1, footprint() / bsparse::kTileBytes / ctas));
    const int64_t batch = (int64_t{ctas} * region + bsparse::kTilesAcross - 1) /
                          bsparse::kTilesAcross * bsparse::kTileBatch;
    const int64_t features = int64_t{bsparse::kTilesAcross} * bsparse::kTileFeatures;
    auto* const data = static_cast<uint32_t*>(from_);
    bsparse::fill_tiles<<<ctas, 256>>>(data, batch * features / 2);
    CUtensorMap map;
    if (bsparse::make_tensor_map(bsparse::MapType::kBfloat16, data, features, batch, kRowBytes / 2,
                                 bsparse::kTileBatch, &map) != BSPARSE_OK) {
      std::fprintf(stderr, "gpu_constants: %s\n", bsparse::last_error());
      std::exit(1);
    }
    const auto kernel = bsparse::copy_rows<kRowBytes>;
    constexpr int kShared = bsparse::kTileRingBytes;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
          "setting up copies of rows");

    auto* const sums = static_cast<uint32_t*>(to_);
    check(cudaMemset(sums, 0, 2 * ctas * sizeof(uint32_t)), "clearing sums");
    bsparse::sum_rows<kRowBytes><<<ctas, 32>>>(data, region, sums);
    kernel<<<ctas, 64, kShared>>>(map, region, region, sums + ctas);
    check(cudaGetLastError(), "launching copies of rows");
    std::vector<uint32_t> got(2 * ctas);
    check(cudaMemcpy(got.data(), sums, got.size() * sizeof(uint32_t), cudaMemcpyDeviceToHost),
          "copying rows");
    if (!std::equal(got.begin(), got.begin() + ctas, got.begin() + ctas)) {
      std::fprintf(stderr, "gpu_constants: rows of %d bytes were not copied as they are\n",
                   kRowBytes);
      std::exit(1);
    }

    const int tiles = 4000;
    const double seconds =
        time([&] { kernel<<<ctas, 64, kShared>>>(map, region, tiles, nullptr); });
    const double tile_rows = bsparse::kTileBytes / kRowBytes;
    add(name, words, tile_rows * tiles * ctas / seconds, 0, kRowBytes);
  }

  cudaDeviceProp device_{};
  void* from_ = nullptr;
  void* to_ = nullptr;
  Clocks* clocks_ = nullptr;
  cudaEvent_t begin_{}, end_{};
  std::vector<Result> results_;
};

void write_json(const Bench& bench, const char* path) {
  std::FILE* const file = std::fopen(path, "w");
  if (file == nullptr) {
    std::fprintf(stderr, "gpu_constants: cannot write %s\n", path);
    std::exit(1);
  }
  std::fprintf(file, "{\n \"device\": \"%s\",\n \"compute_capability\": %d,\n \"sm_count\": %d",
               bench.device().name, 10 * bench.device().major + bench.device().minor,
               bench.device().multiProcessorCount);
  const auto write = [&](const char* title, double Result::*value) {
    std::fprintf(file, ",\n \"%s\": {", title);
    const char* before = "";
    for (const Result& result : bench.results()) {
      if (result.*value == 0) continue;
      std::fprintf(file, "%s\n  \"%s\": %.4g", before, result.name.c_str(), result.*value);
      before = ",";
    }
    std::fprintf(file, "\n }");
  };
  write("rates", &Result::rate);
  write("sm_clocks", &Result::clock);
  std::fprintf(file, "\n}\n");
  std::fclose(file);
}

}  // namespace

int main(int argc, char** argv) {
  const struct {
    const char* name;
    void (Bench::*measure)();
  } sections[] = {{"l2", &Bench::measure_l2},
                  {"rows", &Bench::measure_rows},
                  {"memory", &Bench::measure_memory},
                  {"arithmetic", &Bench::measure_arithmetic}};
  const char* only = nullptr;
  int next = 1;
  if (argc > 2 && std::strcmp(argv[1], "--only") == 0) {
    only = argv[2];
    next = 3;
  }
  const bool known =
      only == nullptr || std::any_of(std::begin(sections), std::end(sections), [&](const auto& s) {
        return std::strcmp(s.name, only) == 0;
      });
  if (!known || argc > next + 1 || (argc == next + 1 && argv[next][0] == '-')) {
    std::fprintf(stderr, "usage: %s [--only l2|rows|memory|arithmetic] [constants.json]\n",
                 argv[0]);
    return 2;
  }
  Bench bench;
  for (const auto& section : sections) {
    if (only == nullptr || std::strcmp(section.name, only) == 0) (bench.*section.measure)();
  }
  std::printf("%s, %d SMs, L2 %d MB\n", bench.device().name, bench.device().multiProcessorCount,
              bench.device().l2CacheSize >> 20);
  for (const Result& result : bench.results()) {
    const double amount = result.row_bytes == 0 ? result.rate : result.rate * result.row_bytes;
    std::printf("%-42s %7.1f T%s", result.words.c_str(), amount * 1e-12,
                result.clock == 0 ? "B/s" : "FLOP/s");
    if (result.row_bytes != 0) std::printf("  %.1f G rows/s", result.rate * 1e-9);
    if (result.clock != 0) std::printf("  at %.0f MHz", result.clock * 1e-6);
    std::printf("\n");
  }
  if (argc == next + 1) write_json(bench, argv[next]);
  return 0;
}
