// Times the CPU products and compares them with this machine's peak.
//
//   matmul_benchmark [--threads=1] [--size=2048] [--batch=192] [--density=0.25] [--dtype=float32]
//                    [--op=forward|dx|dw] [--block_size=32] [--axis=0] [--target=AVX2]
//
// Every option left out that has several values takes all of them in turn. Each line is the best of
// many short windows: on a machine with other work, the others say little. Calls take turns among
// several activations, which then come from the cache that cores share, as in a network.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cc/cpu/kernels.h"
#include "cc/cpu/matmul.h"
#include "cc/cpu/shared_loop.h"
#include "cc/cpu/thread_pool_testing.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bsparse {
namespace {

constexpr int kActivations = 4;

double Seconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

// The best mean time of a call among windows that last about a second in all.
double BestTime(const std::function<void()>& call) {
  call();
  double best = 1e9;
  const double until = Seconds() + 0.6;
  for (int i = 0; i < 5 || Seconds() < until; ++i) {
    const double start = Seconds();
    for (int c = 0; c < kActivations; ++c) call();
    best = std::min(best, (Seconds() - start) / kActivations);
  }
  return best;
}

#if defined(__x86_64__)
// Twelve chains of fused multiply-adds: enough to hide their latency.
__attribute__((target("avx512f"), noinline)) void RunMultiplyAdds(int steps) {
  __m512 sums[12];
#pragma GCC unroll 12
  for (__m512& sum : sums) sum = _mm512_set1_ps(0.5f);
  const __m512 factor = _mm512_set1_ps(0.999f);
  for (int step = 0; step < steps; ++step) {
#pragma GCC unroll 12
    for (__m512& sum : sums) {
      sum = _mm512_fmadd_ps(sum, factor, factor);
      asm volatile("" : "+v"(sum));  // keeps the compiler from working it out
    }
  }
}

// GFLOP/s of one core that does nothing else.
double MeasuredPeakAvx512() {
  constexpr int kSteps = 100000;
  const double seconds = BestTime([] { RunMultiplyAdds(kSteps); });
  return 2.0 * 16 * 12 * kSteps / seconds * 1e-9;
}

double MeasuredPeak() { return __builtin_cpu_supports("avx512f") ? MeasuredPeakAvx512() : 0; }
#else
double MeasuredPeak() { return 0; }
#endif

// Aligned as TensorFlow's are. Any bits that are ordinary numbers will do: 0x3c is the upper byte
// of small ones in every type.
class Tensor {
 public:
  explicit Tensor(size_t bytes) : data_(::operator new(bytes, kAlignment)) {
    std::memset(data_.get(), 0x3c, bytes);
  }

  void* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};

  struct Deleter {
    void operator()(void* data) const { ::operator delete(data, kAlignment); }
  };

  std::unique_ptr<void, Deleter> data_;
};

struct Case {
  std::string op;
  DType dtype;
  int block_size, feature_axis;
};

// `peak`: of all threads.
void Measure(const Case& c, int64_t size, int64_t batch, double density,
             const ParallelFor& parallel_for, double peak) {
  const int blocks_across = static_cast<int>(size / c.block_size);
  std::mt19937 random(1);
  std::bernoulli_distribution keep(density);
  std::vector<int32_t> coords;
  for (int k = 0; k < blocks_across; ++k) {
    for (int r = 0; r < blocks_across; ++r) {
      if (keep(random)) coords.insert(coords.end(), {r, k});
    }
  }
  const int64_t blocks = static_cast<int64_t>(coords.size()) / 2;
  const BlockIndex index({coords.data(), blocks, blocks_across, blocks_across}, c.op == "dx");
  const size_t width = c.dtype == DType::kFloat32 ? 4 : c.dtype == DType::kFloat64 ? 8 : 2;
  const Tensor w(blocks * c.block_size * c.block_size * width);
  std::vector<Tensor> xs, ys;
  for (int i = 0; i < kActivations; ++i) {
    xs.emplace_back(size * batch * width);
    ys.emplace_back(size * batch * width);
  }
  int turn = 0;
  double seconds;
  if (c.op == "dw") {
    CpuMatmulDwArgs args;
    args.dtype = args.out_dtype = c.dtype;
    args.block_size = c.block_size;
    args.feature_axis = c.feature_axis;
    args.index = &index;
    args.dw = w.data();
    seconds = BestTime([&] {
      turn = (turn + 1) % kActivations;
      args.pairs = {{xs[turn].data(), ys[turn].data(), batch}};
      CpuMatmulDw(args, parallel_for);
    });
  } else {
    CpuMatmulArgs args;
    args.dtype = args.weight_dtype = c.dtype;
    args.block_size = c.block_size;
    args.feature_axis = c.feature_axis;
    args.transpose = c.op == "dx";
    args.batch = batch;
    args.index = &index;
    args.w = w.data();
    args.y = ys[0].data();
    seconds = BestTime([&] {
      turn = (turn + 1) % kActivations;
      args.x = xs[turn].data();
      CpuMatmul(args, parallel_for);
    });
  }
  const double gigaflops =
      2.0 * blocks * c.block_size * c.block_size * batch / seconds * 1e-9;
  const char* names[] = {"float32", "float16", "bfloat16", "float64"};
  std::printf("%-8s %-8s block %3d axis %d batch %4d density %5.3f: %8.3f ms %7.1f GF %6.1f%%\n",
              names[static_cast<int>(c.dtype)], c.op.c_str(), c.block_size, c.feature_axis,
              static_cast<int>(batch), density, 1e3 * seconds, gigaflops,
              100 * gigaflops / peak);
  std::fflush(stdout);
}

std::string Option(int argc, char** argv, const std::string& name, const std::string& otherwise) {
  const std::string prefix = "--" + name + "=";
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], prefix.c_str(), prefix.size()) == 0) return argv[i] + prefix.size();
  }
  return otherwise;
}

bool Takes(const std::string& chosen, const std::string& value) {
  return ("," + chosen + ",").find("," + value + ",") != std::string::npos;
}

int Main(int argc, char** argv) {
  const auto option = [&](const char* name, const char* otherwise) {
    return Option(argc, argv, name, otherwise);
  };
  for (const AllKernels& kernels : SupportedKernels()) {
    if (kernels.target == option("target", "")) UseKernelsForTesting(kernels);
  }
  const double peak = MeasuredPeak();
  std::printf("kernels: %s; peak of one core: %.1f GF of float32\n", CpuTargetName(), peak);
  const int threads = std::atoi(option("threads", "1").c_str());
  LoopWaitingRoom room;
  ThreadPool pool(threads - 1);  // the caller works, too
  const ParallelFor parallel_for = OverThreads(
      threads, [&](std::function<void()> task) { pool.Schedule(std::move(task)); }, &room);
  const std::pair<const char*, DType> dtypes[] = {{"float32", DType::kFloat32},
                                                  {"bfloat16", DType::kBFloat16},
                                                  {"float16", DType::kFloat16},
                                                  {"float64", DType::kFloat64}};
  for (const auto& [name, dtype] : dtypes) {
    if (!Takes(option("dtype", "float32,bfloat16"), name)) continue;
    for (const char* op : {"forward", "dx", "dw"}) {
      if (!Takes(option("op", "forward,dx,dw"), op)) continue;
      for (const int axis : {0, 1}) {
        if (!Takes(option("axis", "0,1"), std::to_string(axis))) continue;
        for (const int block_size : kBlockSizes) {
          if (!Takes(option("block_size", "8,16,32,64,128"), std::to_string(block_size))) continue;
          Measure({op, dtype, block_size, axis}, std::atoll(option("size", "2048").c_str()),
                  std::atoll(option("batch", "192").c_str()),
                  std::atof(option("density", "0.25").c_str()), parallel_for, peak * threads);
        }
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace bsparse

int main(int argc, char** argv) { return bsparse::Main(argc, argv); }
