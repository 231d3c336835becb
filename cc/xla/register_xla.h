// Registration of XLA kernels.
#ifndef BSPARSE_CC_XLA_REGISTER_XLA_H_
#define BSPARSE_CC_XLA_REGISTER_XLA_H_

#include "absl/strings/string_view.h"
#include "tensorflow/compiler/tf2xla/xla_op_registry.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace bsparse {

inline const absl::string_view kXlaDevices[] = {tensorflow::DEVICE_CPU_XLA_JIT,
                                                    tensorflow::DEVICE_GPU_XLA_JIT};

}  // namespace bsparse

// XLA turns its registry into kernels once, when a process first compiles anything: what
// REGISTER_XLA_OP adds later would have no kernel. So the kernels are registered by hand as well;
// their priority decides where both came in time. OPTIONS: such as .CompileTimeConstantInput("x").
#define BSPARSE_REGISTER_XLA(NAME, OP, OPTIONS)                                               \
  REGISTER_XLA_OP(Name(NAME).Device(bsparse::kXlaDevices) OPTIONS, OP);                       \
  REGISTER_KERNEL_BUILDER(Name(NAME).Device(tensorflow::DEVICE_CPU_XLA_JIT).Priority(1), OP); \
  REGISTER_KERNEL_BUILDER(Name(NAME).Device(tensorflow::DEVICE_GPU_XLA_JIT).Priority(1), OP)

#endif  // BSPARSE_CC_XLA_REGISTER_XLA_H_
