// The vector code of every instruction set that Highway dispatches to, and the choice among them.

#include "cc/cpu/kernels.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

// Highway's variable-length Arm and RISC-V targets cannot keep vectors in arrays, as our tiles do;
// SSE4 has no fused multiply-add, and machines of that age take the portable target.
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cc/cpu/kernels.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace bsparse {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#include "cc/cpu/product-inl.h"
#include "cc/cpu/convert-inl.h"
#include "cc/cpu/pack-inl.h"
#include "cc/cpu/finish-inl.h"
#include "cc/cpu/layer_norm-inl.h"
#include "cc/cpu/lstm_gates-inl.h"
#include "cc/cpu/activation_grad-inl.h"

template <class D>
struct MulAddOps {
  using Elem = hn::TFromD<D>;
  using Stored = Elem;
  using Sum = Elem;
  using V = hn::Vec<D>;
  using BVector = V;
  static constexpr int kLanes = hn::MaxLanes(D());
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SCALAR
  static constexpr int kRegisters = 16;
#else
  static constexpr int kRegisters = 32;
#endif
  // Half vectors of AVX-512, for gradients of blocks of 8, run two a cycle.
  static constexpr int kChains = kLanes < hn::MaxLanes(hn::ScalableTag<Elem>()) ? 2 : 1;

  static HWY_INLINE V Zero() { return hn::Zero(D()); }
  static HWY_INLINE V Load(const Elem* p) { return hn::LoadU(D(), p); }
  static HWY_INLINE V LoadSums(const Sum* p) { return hn::LoadU(D(), p); }
  static HWY_INLINE V Broadcast(const Elem* p) { return hn::Set(D(), *p); }
  static HWY_INLINE V MulAdd(V a, V b, V sum) { return hn::MulAdd(a, b, sum); }
  static HWY_INLINE V Add(V a, V b) { return hn::Add(a, b); }
  static HWY_INLINE void Store(V v, Sum* p) { hn::StoreU(v, D(), p); }
};

template <typename Elem>
void Multiply(const Product<Elem>& product) {
  const hn::ScalableTag<Elem> d;
  if constexpr (hn::MaxLanes(d) > 8) {
    if (product.columns % hn::MaxLanes(d) != 0) {
      return MultiplyWith<MulAddOps<hn::CappedTag<Elem, 8>>>(product);
    }
  }
  MultiplyWith<MulAddOps<decltype(d)>>(product);
}

#if HWY_TARGET == HWY_AVX3  // vectors hold 16 sums
struct EightsOps : MulAddOps<hn::ScalableTag<float>> {
  using D = hn::ScalableTag<float>;

  // Not double: broadcast as an integer, the whole product takes 0.76 of the time on Zen 4.
  using Two = int64_t;

  static HWY_INLINE V BroadcastTwo(const Two* p) {
    const hn::Repartition<Two, D> d64;
    return hn::BitCast(D(), hn::Set(d64, *p));
  }
  // Sums of neighbouring lanes: those of `first`, then those of `second`.
  static HWY_INLINE V AddTwos(V first, V second) {
    return hn::Add(hn::ConcatEven(D(), second, first), hn::ConcatOdd(D(), second, first));
  }
};

void MultiplyEights(const ProductOfEights<float>& product) {
  MultiplyEightsWith<EightsOps>(product);
}
#endif

template <typename T, typename Elem>
Kernels<T, Elem> KernelsFor(void (*multiply)(const Product<Elem>&)) {
  Kernels<T, Elem> kernels;
  kernels.multiply = multiply;
  kernels.pack = PackActivations<T, Elem>;
  kernels.prepare_weights = PrepareWeights<T, Elem>;
  kernels.finish = FinishSums<T>;
  kernels.scale = ScaleSums<T, T>;
  kernels.scale_to_float = ScaleSums<T, float>;
#if HWY_TARGET == HWY_AVX3
  if constexpr (std::is_same<Elem, float>::value) kernels.multiply_eights = MultiplyEights;
#endif
  return kernels;
}

AllKernels ThisTarget() {
  return {hwy::TargetName(HWY_TARGET),
          KernelsFor<float, float>(Multiply<float>),
          KernelsFor<double, double>(Multiply<double>),
          KernelsFor<Float16, float>(Multiply<float>),
          KernelsFor<BFloat16, float>(Multiply<float>),
          KernelsFor<BFloat16, BFloat16Pair>(nullptr),
          {{NormalizeUnits<float>, LayerNormDxUnits<float>, LayerNormParamUnits<float>},
           {NormalizeUnits<double>, LayerNormDxUnits<double>, LayerNormParamUnits<double>},
           {NormalizeUnits<Float16>, LayerNormDxUnits<Float16>, LayerNormParamUnits<Float16>},
           {NormalizeUnits<BFloat16>, LayerNormDxUnits<BFloat16>, LayerNormParamUnits<BFloat16>},
           GateKernelsFor<float, float>(),
           GateKernelsFor<double, double>(),
           GateKernelsFor<Float16, Float16>(),
           GateKernelsFor<Float16, float>(),
           GateKernelsFor<BFloat16, BFloat16>(),
           GateKernelsFor<BFloat16, float>()},
          {ActivationGradUnits<float>, ActivationGradUnits<double>, ActivationGradUnits<Float16>,
           ActivationGradUnits<BFloat16>}};
}

}  // namespace HWY_NAMESPACE
}  // namespace bsparse
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace bsparse {
namespace {

#if defined(__x86_64__)
// Clang 14's __builtin_cpu_supports does not know this one.
bool HasF16c() {
  unsigned eax, ebx, ecx = 0, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

// Highway's own choice lives in its library, which Debian has only as a shared one; a wheel should
// not depend on that for a few bits of CPUID.
std::vector<AllKernels> FindSupportedKernels() {
  std::vector<AllKernels> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                    HasF16c() && __builtin_cpu_supports("pclmul") &&
                    __builtin_cpu_supports("aes");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw");
#if HWY_TARGETS & HWY_AVX3
  if (avx512) {
    AllKernels kernels = N_AVX3::ThisTarget();
    const PairProducts pairs = FindPairProducts();
    kernels.bfloat16_pairs.multiply = pairs.multiply;
    kernels.bfloat16_pairs.multiply_eights = pairs.multiply_eights;
    kernels.target = "AVX3_BF16";
    if (kernels.bfloat16_pairs.multiply != nullptr) found.push_back(kernels);
    found.push_back(N_AVX3::ThisTarget());
  }
#endif
#if HWY_TARGETS & HWY_AVX2
  if (avx2) found.push_back(N_AVX2::ThisTarget());
#endif
#endif  // __x86_64__
  found.push_back(HWY_STATIC_DISPATCH(ThisTarget)());
  return found;
}

std::atomic<const AllKernels*> chosen_for_testing{nullptr};

}  // namespace

const std::vector<AllKernels>& SupportedKernels() {
  static const std::vector<AllKernels> kernels = FindSupportedKernels();
  return kernels;
}

const AllKernels& CurrentKernels() {
  const AllKernels* chosen = chosen_for_testing.load(std::memory_order_relaxed);
  return chosen != nullptr ? *chosen : SupportedKernels().front();
}

void UseKernelsForTesting(const AllKernels& kernels) { chosen_for_testing = &kernels; }

}  // namespace bsparse
#endif  // HWY_ONCE
