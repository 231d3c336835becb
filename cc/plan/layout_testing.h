// Layouts and kernels for the planner's tests.
#ifndef BSPARSE_CC_PLAN_LAYOUT_TESTING_H_
#define BSPARSE_CC_PLAN_LAYOUT_TESTING_H_

#include <algorithm>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "cc/plan/block_index.h"
#include "cc/plan/matmul_plan.h"
#include "cuda/bsparse_cuda.h"

namespace bsparse {

struct TestLayout {
  int32_t in_blocks, out_blocks;
  std::vector<int32_t> coords;
  LayoutView view() const {
    return {coords.data(), static_cast<int64_t>(coords.size() / 2), in_blocks, out_blocks};
  }
};

// stored(c, k): whether a block is.
template <class Stored>
TestLayout LayoutWhere(int32_t in_blocks, int32_t out_blocks, const Stored& stored) {
  TestLayout layout{in_blocks, out_blocks, {}};
  for (int32_t c = 0; c < in_blocks; ++c) {
    for (int32_t k = 0; k < out_blocks; ++k) {
      if (stored(c, k)) layout.coords.insert(layout.coords.end(), {c, k});
    }
  }
  return layout;
}

inline TestLayout RandomLayout(int32_t in_blocks, int32_t out_blocks, double density,
                               uint32_t seed) {
  std::mt19937 random(seed);
  return LayoutWhere(in_blocks, out_blocks, [&](int32_t, int32_t) {
    return std::uniform_real_distribution<>(0, 1)(random) < density;
  });
}

// The same blocks in another order.
inline TestLayout Shuffled(TestLayout layout, uint32_t seed) {
  std::mt19937 random(seed);
  const auto blocks = static_cast<int32_t>(layout.coords.size() / 2);
  for (int32_t b = blocks - 1; b > 0; --b) {
    const auto other = static_cast<int32_t>(random() % (b + 1));
    std::swap(layout.coords[2 * b], layout.coords[2 * other]);
    std::swap(layout.coords[2 * b + 1], layout.coords[2 * other + 1]);
  }
  return layout;
}

// Each block with probability `density`; the first `hubs` columns full. In no order.
inline TestLayout RandomWithHubs(int32_t in_blocks, int32_t out_blocks, double density, int hubs,
                                 uint32_t seed) {
  std::mt19937 random(seed);
  return Shuffled(LayoutWhere(in_blocks, out_blocks, [&](int32_t, int32_t k) {
    return k < hubs || std::uniform_real_distribution<>(0, 1)(random) < density;
  }), seed);
}

// A kernel whose items are `ctas` unions of `columns` columns, of which `shared` neighbours share a product.
inline PlanTarget UnionTarget(int32_t ctas, int32_t columns, int32_t shared) {
  PlanTarget target;
  target.sm_count = 132;
  target.batch_tile = 256;
  target.kernel = BSPARSE_SM90;
  target.columns = columns * ctas;
  target.cta_columns = columns;
  target.shared_columns = shared;
  return target;
}

}  // namespace bsparse

#endif  // BSPARSE_CC_PLAN_LAYOUT_TESTING_H_
