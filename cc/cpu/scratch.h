// Working memory that a thread keeps from one call to the next: fresh megabytes from the system
// would cost more in page faults than many products take.
#ifndef BSPARSE_CC_CPU_SCRATCH_H_
#define BSPARSE_CC_CPU_SCRATCH_H_

#include <cstddef>
#include <cstdint>

namespace bsparse {

// `size` uninitialised numbers of a trivial type, aligned to a cache line. Belongs to the thread
// that made it, and must end there; other threads may use the memory meanwhile.
class ScratchBytes {
 public:
  explicit ScratchBytes(size_t size);
  ~ScratchBytes();
  ScratchBytes(const ScratchBytes&) = delete;
  ScratchBytes& operator=(const ScratchBytes&) = delete;

 protected:
  void* data_;
  size_t capacity_;
};

template <typename T>
class Scratch : public ScratchBytes {
 public:
  explicit Scratch(int64_t size) : ScratchBytes(static_cast<size_t>(size) * sizeof(T)) {}

  T* get() const { return static_cast<T*>(data_); }
};

}  // namespace bsparse

#endif  // BSPARSE_CC_CPU_SCRATCH_H_
