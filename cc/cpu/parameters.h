// Vectors of parameters (gain, bias), which may be stored in the activations' type or in float32.
#ifndef BSPARSE_CC_CPU_PARAMETERS_H_
#define BSPARSE_CC_CPU_PARAMETERS_H_

#include <cstdint>

#include "cc/cpu/dtype.h"
#include "cc/cpu/scratch.h"
#include "cc/plan/types.h"

namespace bsparse {

// Whether numbers of a type are stored in the type that activations are summed in.
inline bool IsWide(DType dtype) { return dtype == DType::kFloat32 || dtype == DType::kFloat64; }

// A vector in the type that T's are summed in; converted if it is not stored so.
template <typename T>
class WidenedVector {
 public:
  using Sum = Accumulator<T>;

  WidenedVector(const void* stored, bool is_wide, int64_t size)
      : scratch_(is_wide || stored == nullptr ? 0 : size), data_(static_cast<const Sum*>(stored)) {
    if (is_wide || stored == nullptr) return;
    const T* const narrow = static_cast<const T*>(stored);
    for (int64_t i = 0; i < size; ++i) scratch_.get()[i] = Widen(narrow[i]);
    data_ = scratch_.get();
  }

  const Sum* get() const { return data_; }

 private:
  Scratch<Sum> scratch_;
  const Sum* data_;
};

// Room for a vector that is computed in the type T's are summed in; Store() rounds it to the type
// it is stored in.
template <typename T>
class VectorToNarrow {
 public:
  using Sum = Accumulator<T>;

  VectorToNarrow(void* stored, bool is_wide, int64_t size)
      : scratch_(is_wide ? 0 : size), stored_(stored), is_wide_(is_wide), size_(size) {}

  Sum* get() const { return is_wide_ ? static_cast<Sum*>(stored_) : scratch_.get(); }

  void Store() const {
    if (is_wide_) return;
    T* const narrow = static_cast<T*>(stored_);
    for (int64_t i = 0; i < size_; ++i) narrow[i] = bsparse::Store<T>(scratch_.get()[i]);
  }

 private:
  Scratch<Sum> scratch_;
  void* stored_;
  bool is_wide_;
  int64_t size_;
};

}  // namespace bsparse

#endif  // BSPARSE_CC_CPU_PARAMETERS_H_
