// What all operations for TensorFlow need: the numbers of tensors, inputs and outputs in their order.

#pragma once

#include <initializer_list>
#include <string>

#include "absl/status/status.h"
#include "numbers.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"

namespace trainer {

namespace tf = tensorflow;

// TensorFlow's type for ours.
template <typename T>
struct InTensorFlow {
  using Type = T;
};
template <>
struct InTensorFlow<BFloat16> {
  using Type = tf::bfloat16;
};

// The numbers of a tensor, as ours.
template <typename T>
T* Numbers(const tf::Tensor& tensor) {
  return static_cast<T*>(tensor.data());
}

// Whether all of an operation's input `name` are in [0, limit); else what is wrong.
inline absl::Status InRange(const char* operation, const char* name, const tf::Tensor& tensor, long limit) {
  const int32_t* numbers = Numbers<int32_t>(tensor);
  for (long i = 0; i < tensor.NumElements(); ++i) {
    if (numbers[i] < 0 || numbers[i] >= limit) {
      return absl::InvalidArgumentError(std::string(operation) + ": " + name + " holds " + std::to_string(numbers[i]) +
                                        ", which is not in [0, " + std::to_string(limit) + ")");
    }
  }
  return absl::OkStatus();
}

// Hands out inputs and allocates outputs, in their order.
class Call {
 public:
  explicit Call(tf::OpKernelContext* context) : context_(context) {}

  const tf::Tensor& Next() { return context_->input(next_input_++); }
  const tf::ResourceHandle& NextVariable() { return HandleFromInput(context_, next_input_++); }

  template <typename T>
  T* Allocate(std::initializer_list<int64_t> shape) {
    tf::Tensor* output = nullptr;
    status_.Update(context_->allocate_output(next_output_++, tf::TensorShape(shape), &output));
    return output == nullptr ? nullptr : Numbers<T>(*output);
  }

  // Whether all could be allocated; TensorFlow is told if not.
  bool ok() {
    if (!status_.ok()) context_->CtxFailure(status_);
    return status_.ok();
  }

 private:
  tf::OpKernelContext* context_;
  int next_input_ = 0, next_output_ = 0;
  absl::Status status_;
};

}  // namespace trainer
