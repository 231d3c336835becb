// The loop over time of the small-world LSTM (Gray, Radford and Kingma 2017, Algorithm 1), forward
// and back: which kernel works on what and in which order, for the CPU and the GPU alike. A device
// is a Backend, whose calls run one after the other:
//
//   bool ok()                                          false stops the loop
//   void Multiply(int product, bool transpose, const void* x, void* y)
//   void Norm(const NormCall&)
//   void NormGrad(const NormGradCall&)
//   void Gates(const GatesCall&)
//   void GatesGrad(const GatesGradCall&)
//
// A step, with linear(v) = layer_norm(v W), every time with another W:
//
//   v = linear(h) * m; v = relu(linear(v) + a); v = relu(linear(v)) for each further internal step
//   i, f, g, o = linear(v), each gate normalised by itself; then the update of an LSTM cell
//
// Activations are (batch, features). No TensorFlow here.
#ifndef BSPARSE_CC_CPU_SMALL_WORLD_LOOP_H_
#define BSPARSE_CC_CPU_SMALL_WORLD_LOOP_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cc/plan/types.h"

namespace bsparse {

inline constexpr int kGates = 4;

constexpr size_t SizeOf(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

struct SmallWorldShape {
  DType dtype = DType::kFloat32;        // of activations, h and weights
  DType cell_dtype = DType::kFloat32;   // of c
  DType param_dtype = DType::kFloat32;  // of gains and biases
  int64_t steps = 0;
  int64_t batch = 0;
  int64_t units = 0;
  int64_t stride = 1;  // m and a are those of every stride-th unit
  int depth = 0;  // internal steps, 2 or more; product number `depth` is that of the gates
  float epsilon = 0;

  int products() const { return depth + 1; }
  int segments(int product) const { return product == depth ? kGates : 1; }
  int64_t width(int product) const { return segments(product) * units; }
  DType stats_dtype() const { return dtype == DType::kFloat64 ? dtype : DType::kFloat32; }
  // Bytes of one step.
  size_t activation_bytes(int64_t width) const { return batch * width * SizeOf(dtype); }
  size_t input_bytes() const { return activation_bytes(units / stride); }  // of m, of a
  size_t cell_bytes() const { return batch * units * SizeOf(cell_dtype); }
  size_t stats_bytes(int norms) const { return norms * batch * SizeOf(stats_dtype()); }
  size_t stats_bytes() const { return stats_bytes(depth + kGates); }
};

// A tensor of all steps, or one that they share.
struct OverTime {
  void* data = nullptr;
  size_t stride = 0;  // bytes from one step to the next

  void* operator[](int64_t t) const { return static_cast<char*>(data) + t * stride; }
};

// What comes of the way forward. The inputs are only read.
struct SmallWorldStates {
  OverTime m, a;
  const void* h_first = nullptr;
  const void* c_first = nullptr;
  OverTime h, c;                   // after each step
  std::vector<OverTime> products;  // before the norms
  std::vector<OverTime> operands;  // of the products from 1 on: operands[j] of product j + 1
  OverTime mean, rstd;             // (depth, batch), then (batch, 4) of the gates

  const void* h_before(int64_t t) const { return t == 0 ? h_first : h[t - 1]; }
  const void* c_before(int64_t t) const { return t == 0 ? c_first : c[t - 1]; }
  const void* operand(int product, int64_t t) const {
    return product == 0 ? h_before(t) : operands[product - 1][t];
  }
};

struct SmallWorldGradients {
  OverTime dh;                    // of h after each step
  const void* dh_last = nullptr;  // what is to be added to its last
  const void* dc_last = nullptr;
  // Written.
  OverTime dm, da;
  void* dh_first = nullptr;
  void* dc_first = nullptr;
  std::vector<OverTime> dproducts;
  // Scratch of a step.
  void* dv = nullptr;      // units wide
  void* dz = nullptr;      // units wide
  void* dgates = nullptr;  // 4 units wide
};

// y = act(z * multiplier) or act(z + addend), z the layer norm of x, where every stride-th feature
// has a multiplier or an addend and the others none; null pointers for what is not asked for.
struct NormCall {
  int product;
  const void* x;
  void* y;  // null: the statistics only
  void* mean;
  void* rstd;
  const void* multiplier;
  const void* addend;
  bool relu;
};

// The sums over the batch, dgain and dbias, are the backend's business: it begins them anew if
// `first`, else adds to them.
struct NormGradCall {
  int product;
  bool first;
  const void* dy;
  const void* x;
  const void* mean;
  const void* rstd;
  const void* multiplier;
  const void* addend;
  bool relu;
  void* dx;
  void* dz;        // scratch, units wide, with a multiplier or an addend
  void* doperand;  // of either
};

// `gates` as the product gave them.
struct GatesCall {
  const void* gates;
  const void* mean;
  const void* rstd;
  const void* c;
  void* c_next;
  void* h;
};

struct GatesGradCall {
  const void* gates;
  const void* mean;
  const void* rstd;
  const void* c;
  const void* dc_next;
  const void* dh;
  const void* dh_more;
  void* dc;  // may be dc_next
  void* dgates;
};

template <class Backend>
class SmallWorldLoop {
 public:
  SmallWorldLoop(const SmallWorldShape& shape, const SmallWorldStates& states, Backend* backend)
      : shape_(shape), states_(states), backend_(*backend) {}

  void Forward() {
    if (shape_.batch == 0) return;
    for (int64_t t = 0; t < shape_.steps && backend_.ok(); ++t) {
      Hidden(t);
      const auto [mean, rstd] = Statistics(shape_.depth, t);
      backend_.Gates({states_.products[shape_.depth][t], mean, rstd, states_.c_before(t),
                      states_.c[t], states_.h[t]});
    }
  }

  // Without `kept` products, operands and statistics of a step are made again before its way back.
  void Backward(const SmallWorldGradients& grads, bool kept) {
    if (shape_.batch == 0) {
      for (int j = 0; j < shape_.products(); ++j) {
        NormGradCall nothing{};
        nothing.product = j;
        nothing.first = true;
        backend_.NormGrad(nothing);
      }
      return;
    }
    for (int64_t t = shape_.steps - 1; t >= 0 && backend_.ok(); --t) {
      if (!kept) Hidden(t);
      Back(grads, t);
    }
  }

 private:
  struct Moments {
    void* mean;
    void* rstd;
  };

  Moments Statistics(int product, int64_t t) const {
    const size_t offset = shape_.stats_bytes(product);
    return {static_cast<char*>(states_.mean[t]) + offset,
            static_cast<char*>(states_.rstd[t]) + offset};
  }

  // All of a step but the cell's update.
  void Hidden(int64_t t) {
    for (int j = 0; j < shape_.products(); ++j) {
      backend_.Multiply(j, /*transpose=*/false, states_.operand(j, t), states_.products[j][t]);
      const auto [mean, rstd] = Statistics(j, t);
      backend_.Norm({j, states_.products[j][t], j < shape_.depth ? states_.operands[j][t] : nullptr,
                     mean, rstd, j == 0 ? states_.m[t] : nullptr, j == 1 ? states_.a[t] : nullptr,
                     /*relu=*/j > 0 && j < shape_.depth});
    }
  }

  void Back(const SmallWorldGradients& grads, int64_t t) {
    const bool first = t == shape_.steps - 1;
    const int depth = shape_.depth;
    {
      const auto [mean, rstd] = Statistics(depth, t);
      backend_.GatesGrad({states_.products[depth][t], mean, rstd, states_.c_before(t),
                          first ? grads.dc_last : grads.dc_first, grads.dh[t],
                          first ? grads.dh_last : grads.dh_first, grads.dc_first, grads.dgates});
    }
    for (int j = depth; j >= 0; --j) {
      const auto [mean, rstd] = Statistics(j, t);
      NormGradCall call{};
      call.product = j;
      call.first = first;
      call.dy = j == depth ? grads.dgates : grads.dv;
      call.x = states_.products[j][t];
      call.mean = mean;
      call.rstd = rstd;
      call.relu = j > 0 && j < depth;
      call.dx = grads.dproducts[j][t];
      if (j < 2) {
        (j == 0 ? call.multiplier : call.addend) = (j == 0 ? states_.m : states_.a)[t];
        call.dz = grads.dz;
        call.doperand = (j == 0 ? grads.dm : grads.da)[t];
      }
      backend_.NormGrad(call);
      backend_.Multiply(j, /*transpose=*/true, grads.dproducts[j][t],
                        j == 0 ? grads.dh_first : grads.dv);
    }
  }

  const SmallWorldShape& shape_;
  const SmallWorldStates& states_;
  Backend& backend_;
};

// Cuts one piece of memory into scratch buffers. Without memory it only counts.
class ScratchPlan {
 public:
  static constexpr size_t kAlignment = 256;

  explicit ScratchPlan(void* memory = nullptr) : memory_(static_cast<char*>(memory)) {}

  void* Take(size_t bytes) {
    void* const taken = memory_ == nullptr ? nullptr : memory_ + bytes_;
    bytes_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return taken;
  }

  size_t bytes() const { return bytes_; }

 private:
  char* const memory_;
  size_t bytes_ = 0;
};

// Sets products and statistics that live for one step only; `together` if all of a step are needed
// at the same time, else each may overwrite the one before, and the operands are scratch, too.
inline void TakeStates(const SmallWorldShape& shape, bool together, ScratchPlan* scratch,
                       SmallWorldStates* states) {
  states->products.clear();
  void* shared = together ? nullptr : scratch->Take(shape.activation_bytes(kGates * shape.units));
  for (int j = 0; j < shape.products(); ++j) {
    states->products.push_back(
        {together ? scratch->Take(shape.activation_bytes(shape.width(j))) : shared, 0});
  }
  if (!together) {
    void* const operand = scratch->Take(shape.activation_bytes(shape.units));
    states->operands.assign(shape.depth, OverTime{operand, 0});
  }
  states->mean = {scratch->Take(shape.stats_bytes()), 0};
  states->rstd = {scratch->Take(shape.stats_bytes()), 0};
}

inline void TakeGradients(const SmallWorldShape& shape, ScratchPlan* scratch,
                          SmallWorldGradients* grads) {
  grads->dv = scratch->Take(shape.activation_bytes(shape.units));
  grads->dz = scratch->Take(shape.activation_bytes(shape.units));
  grads->dgates = scratch->Take(shape.activation_bytes(kGates * shape.units));
}

}  // namespace bsparse

#endif  // BSPARSE_CC_CPU_SMALL_WORLD_LOOP_H_
