// What all operations for TensorFlow need: the numbers of tensors, inputs and outputs in their order.

#pragma once

#include <exception>
#include <initializer_list>
#include <new>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "numbers.h"
#include "parallel.h"
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

// What is wrong with an operation's inputs.
inline absl::Status Invalid(const std::string& operation, const std::string& what) {
  return absl::InvalidArgumentError(operation + ": " + what);
}

inline std::string ShapeOf(const std::vector<int64_t>& sizes) {
  std::string text = "[";
  for (size_t i = 0; i < sizes.size(); ++i) text += (i ? ", " : "") + (sizes[i] < 0 ? std::string("?") : std::to_string(sizes[i]));
  return text + "]";
}

// Whether an input has a shape; -1 stands for any size.
inline absl::Status HasShape(const char* operation, const char* name, const tf::Tensor& tensor, const std::vector<int64_t>& sizes) {
  bool fits = tensor.dims() == static_cast<int>(sizes.size());
  for (int i = 0; fits && i < tensor.dims(); ++i) fits = sizes[i] < 0 || tensor.dim_size(i) == sizes[i];
  if (fits) return absl::OkStatus();
  return Invalid(operation, std::string(name) + " has shape " + tensor.shape().DebugString() + ", expected " + ShapeOf(sizes));
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

// A kernel whose `Run` may throw: out of memory and any other failure become errors of the operation, not the process' end.
class Kernel : public tf::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tf::OpKernelContext* context) final {
    if (const auto* threads = context->device()->tensorflow_cpu_worker_threads()) Pool::SetTensorFlowThreads(threads->num_threads);
    try {
      Run(context);
    } catch (const std::bad_alloc&) {
      context->CtxFailure(absl::ResourceExhaustedError(type_string() + ": out of memory"));
    } catch (const std::exception& error) {
      context->CtxFailure(absl::InternalError(type_string() + ": " + error.what()));
    }
  }

  virtual void Run(tf::OpKernelContext* context) = 0;
};

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
