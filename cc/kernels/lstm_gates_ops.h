// What the CPU and GPU kernels of the LSTM gates have in common. A device adds Run().
#ifndef BSPARSE_CC_KERNELS_LSTM_GATES_OPS_H_
#define BSPARSE_CC_KERNELS_LSTM_GATES_OPS_H_

#include <cstdint>

#include "cc/kernels/tensor_data.h"
#include "cc/ops/lstm_gates.h"
#include "cc/plan/types.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace bsparse {

// Of Bsparse>LstmGates and Bsparse>LstmGatesGrad.
class LstmGatesOpBase : public tensorflow::OpKernel {
 public:
  explicit LstmGatesOpBase(tensorflow::OpKernelConstruction* ctx);

 protected:
  struct Call {
    int64_t batch;
    int64_t units;
    const tensorflow::Tensor* c;
    const tensorflow::Tensor* gates;
    const tensorflow::Tensor* bias;  // or null
    // Forward.
    tensorflow::Tensor* c_next;
    tensorflow::Tensor* h;
    // Backward.
    const tensorflow::Tensor* dc_next;
    const tensorflow::Tensor* dh;
    tensorflow::Tensor* dc;
    tensorflow::Tensor* dgates;
  };

  // What a device's arguments take from a call, but for the dtypes.
  template <typename Args>
  void Fill(const Call& call, Args* args) const {
    args->feature_axis = attrs_.feature_axis;
    args->forget_bias = attrs_.forget_bias;
    args->batch = call.batch;
    args->units = call.units;
    args->c = Data(call.c);
    args->gates = Data(call.gates);
    args->bias = Data(call.bias);
    args->c_next = MutableData(call.c_next);
    args->h = MutableData(call.h);
    args->dc_next = Data(call.dc_next);
    args->dh = Data(call.dh);
    args->dc = MutableData(call.dc);
    args->dgates = MutableData(call.dgates);
  }

  // Checks the inputs that both ops have, and sets what follows from them.
  absl::Status ReadInputs(tensorflow::OpKernelContext* ctx, Call* call) const;

  // Called only when the cell has elements.
  virtual absl::Status Run(tensorflow::OpKernelContext* ctx, const Call& call) const = 0;

  LstmGatesAttrs attrs_;
  DType dtype_;
  DType cell_dtype_;
  DType bias_dtype_;
};

class LstmGatesForwardOpBase : public LstmGatesOpBase {
 public:
  using LstmGatesOpBase::LstmGatesOpBase;
  void Compute(tensorflow::OpKernelContext* ctx) final;
};

class LstmGatesGradOpBase : public LstmGatesOpBase {
 public:
  using LstmGatesOpBase::LstmGatesOpBase;
  void Compute(tensorflow::OpKernelContext* ctx) final;
};

}  // namespace bsparse

#endif  // BSPARSE_CC_KERNELS_LSTM_GATES_OPS_H_
