// The operations of training for TensorFlow, on CPUs only: BertEmbeddings, BertLayer, both with their gradients, AdamWUpdate,
// MatrixProduct.

#include <cstring>
#include <vector>

#include "adamw.h"
#include "embeddings.h"
#include "layer.h"
#include "operation.h"
#include "tensorflow/core/framework/resource_var.h"

namespace trainer {
namespace {

// --- BertEmbeddings -----------------------------------------------------------------------------------------------------------

template <typename T>
class EmbeddingsForwardKernel : public tf::OpKernel {
 public:
  explicit EmbeddingsForwardKernel(tf::OpKernelConstruction* construction) : OpKernel(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("epsilon", &epsilon_));
    OP_REQUIRES_OK(construction, construction->GetAttr("rate", &rate_));
  }

  void Compute(tf::OpKernelContext* context) override {
    Call call(context);
    const tf::Tensor &word_ids = call.Next(), &type_ids = call.Next(), &position_ids = call.Next();
    const tf::Tensor &words = call.Next(), &types = call.Next(), &positions = call.Next();
    OP_REQUIRES_OK(context, InRange("BertEmbeddings", "word_ids", word_ids, words.dim_size(0)));
    OP_REQUIRES_OK(context, InRange("BertEmbeddings", "type_ids", type_ids, types.dim_size(0)));
    OP_REQUIRES_OK(context, InRange("BertEmbeddings", "position_ids", position_ids, positions.dim_size(0)));
    const float *gamma = Numbers<float>(call.Next()), *beta = Numbers<float>(call.Next());
    const Dropout dropout(rate_, Numbers<int32_t>(call.Next()));
    const long tokens = word_ids.NumElements(), width = words.dim_size(1);
    T* output = call.Allocate<T>({tokens, width});
    float* normalized = call.Allocate<float>({tokens, width});
    float* inverse = call.Allocate<float>({tokens});
    if (!call.ok()) return;
    Embed(EmbeddedIds{tokens, Numbers<int32_t>(word_ids), Numbers<int32_t>(type_ids), Numbers<int32_t>(position_ids)}, width,
          epsilon_, Embeddings{Numbers<float>(words), Numbers<float>(types), Numbers<float>(positions), gamma, beta}, dropout,
          normalized, inverse, output);
  }

 private:
  float epsilon_ = 0.0f, rate_ = 0.0f;
};

template <typename T>
class EmbeddingsBackwardKernel : public tf::OpKernel {
 public:
  explicit EmbeddingsBackwardKernel(tf::OpKernelConstruction* construction) : OpKernel(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("types", &types_));
    OP_REQUIRES_OK(construction, construction->GetAttr("positions", &positions_));
    OP_REQUIRES_OK(construction, construction->GetAttr("rate", &rate_));
  }

  void Compute(tf::OpKernelContext* context) override {
    Call call(context);
    const tf::Tensor& upstream = call.Next();
    const long tokens = upstream.dim_size(0), width = upstream.dim_size(1);
    const int32_t *type_ids = Numbers<int32_t>(call.Next()), *position_ids = Numbers<int32_t>(call.Next());
    const float *gamma = Numbers<float>(call.Next()), *normalized = Numbers<float>(call.Next());
    const float* inverse = Numbers<float>(call.Next());
    const Dropout dropout(rate_, Numbers<int32_t>(call.Next()));
    float* of_sum = call.Allocate<float>({tokens, width});
    float* of_types = call.Allocate<float>({types_, width});
    float* of_positions = call.Allocate<float>({positions_, width});
    float* of_gamma = call.Allocate<float>({width});
    float* of_beta = call.Allocate<float>({width});
    if (!call.ok()) return;
    EmbedBackward(tokens, width, Numbers<T>(upstream), gamma, normalized, inverse, dropout, {of_sum, of_gamma, of_beta});
    AddRows(tokens, types_, width, type_ids, of_sum, of_types);
    AddRows(tokens, positions_, width, position_ids, of_sum, of_positions);
  }

 private:
  int types_ = 0, positions_ = 0;
  float rate_ = 0.0f;
};

// Ids are of tokens alone, [tokens]; `seed` is dropout's, [2].
REGISTER_OP("BertEmbeddings")
    .Attr("T: {float, bfloat16}")
    .Attr("epsilon: float")
    .Attr("rate: float")
    .Input("word_ids: int32")
    .Input("type_ids: int32")
    .Input("position_ids: int32")
    .Input("words: float")
    .Input("types: float")
    .Input("positions: float")
    .Input("gamma: float")
    .Input("beta: float")
    .Input("seed: int32")
    .Output("output: T")
    .Output("normalized: float")
    .Output("inverse: float")
    .SetShapeFn(tf::shape_inference::UnknownShape);

// `types` and `positions` are how many rows these tables have. The gradient of a token's sum is also that of its word's row.
REGISTER_OP("BertEmbeddingsGrad")
    .Attr("T: {float, bfloat16}")
    .Attr("types: int")
    .Attr("positions: int")
    .Attr("rate: float")
    .Input("upstream: T")
    .Input("type_ids: int32")
    .Input("position_ids: int32")
    .Input("gamma: float")
    .Input("normalized: float")
    .Input("inverse: float")
    .Input("seed: int32")
    .Output("of_sum: float")
    .Output("of_types: float")
    .Output("of_positions: float")
    .Output("of_gamma: float")
    .Output("of_beta: float")
    .SetShapeFn(tf::shape_inference::UnknownShape);

// --- BertLayer ----------------------------------------------------------------------------------------------------------------

template <typename T>
class LayerKernel : public tf::OpKernel {
 public:
  explicit LayerKernel(tf::OpKernelConstruction* construction) : OpKernel(construction) {
    int heads = 0;
    OP_REQUIRES_OK(construction, construction->GetAttr("heads", &heads));
    shape_.heads = heads;
    OP_REQUIRES_OK(construction, construction->GetAttr("epsilon", &shape_.epsilon));
    OP_REQUIRES_OK(construction, construction->GetAttr("attention_rate", &shape_.attention_rate));
    OP_REQUIRES_OK(construction, construction->GetAttr("hidden_rate", &shape_.hidden_rate));
  }

 protected:
  LayerShape ReadInputs(Call* call, LayerInputs<T>* in) const {
    LayerShape shape = shape_;
    const tf::Tensor& hidden = call->Next();
    shape.rows = hidden.dim_size(0);
    shape.length = hidden.dim_size(1);
    shape.hidden = hidden.dim_size(2);
    in->hidden = Numbers<T>(hidden);
    in->segment_ids = Numbers<int32_t>(call->Next());
    const tf::Tensor& read_positions = call->Next();
    const bool reads_all = read_positions.dim_size(1) == 0;
    shape.readers = reads_all ? shape.length : read_positions.dim_size(1);
    in->read_positions = reads_all ? nullptr : Numbers<int32_t>(read_positions);
    in->seeds = Numbers<int32_t>(call->Next());
    for (int i = 0; i < kWeights; ++i) {
      const tf::Tensor& weight = call->Next();
      in->weights[i] = Numbers<float>(weight);
      if (i == kInner) shape.inner = weight.dim_size(1);
    }
    return shape;
  }

 private:
  LayerShape shape_{};
};

template <typename T>
class LayerForwardKernel : public LayerKernel<T> {
 public:
  using LayerKernel<T>::LayerKernel;

  void Compute(tf::OpKernelContext* context) override {
    Call call(context);
    LayerInputs<T> in{};
    const LayerShape shape = this->ReadInputs(&call, &in);
    const long b = shape.rows, l = shape.length, p = shape.readers, h = shape.hidden;
    LayerOutputs<T> out{};
    out.output = call.Allocate<T>({b, p, h});
    out.query = call.Allocate<T>({b, p, h});
    out.key = call.Allocate<T>({b, l, h});
    out.value = call.Allocate<T>({b, l, h});
    out.log_sums = call.Allocate<float>({b, p, shape.heads});
    out.context = call.Allocate<T>({b, p, h});
    out.normalized_1 = call.Allocate<float>({b, p, h});
    out.inverse_1 = call.Allocate<float>({b, p});
    out.attended = call.Allocate<T>({b, p, h});
    out.activated = call.Allocate<T>({b, p, shape.inner});
    out.slopes = call.Allocate<T>({b, p, shape.inner});
    out.normalized_2 = call.Allocate<float>({b, p, h});
    out.inverse_2 = call.Allocate<float>({b, p});
    if (call.ok()) LayerForward(shape, in, out);
  }
};

template <typename T>
class LayerBackwardKernel : public LayerKernel<T> {
 public:
  using LayerKernel<T>::LayerKernel;

  void Compute(tf::OpKernelContext* context) override {
    Call call(context);
    const T* upstream = Numbers<T>(call.Next());
    LayerInputs<T> in{};
    const LayerShape shape = this->ReadInputs(&call, &in);
    LayerOutputs<T> saved{};
    saved.query = Numbers<T>(call.Next());
    saved.key = Numbers<T>(call.Next());
    saved.value = Numbers<T>(call.Next());
    saved.log_sums = Numbers<float>(call.Next());
    saved.context = Numbers<T>(call.Next());
    saved.normalized_1 = Numbers<float>(call.Next());
    saved.inverse_1 = Numbers<float>(call.Next());
    saved.attended = Numbers<T>(call.Next());
    saved.activated = Numbers<T>(call.Next());
    saved.slopes = Numbers<T>(call.Next());
    saved.normalized_2 = Numbers<float>(call.Next());
    saved.inverse_2 = Numbers<float>(call.Next());
    const long h = shape.hidden, f = shape.inner;
    LayerGradients<T> out{};
    out.hidden = call.Allocate<T>({shape.rows, shape.length, h});
    for (int i = 0; i < kWeights; ++i) {
      const long rows = RowsOf(i, h, f), columns = ColumnsOf(i, h, f);
      out.weights[i] = IsMatrix(i) ? call.Allocate<float>({rows, columns}) : call.Allocate<float>({columns});
    }
    if (call.ok()) LayerBackward(shape, in, saved, upstream, out);
  }
};

absl::Status LayerShapes(tf::shape_inference::InferenceContext* context) {
  for (int i = 0; i < context->num_outputs(); ++i) context->set_output(i, context->UnknownShape());
  context->set_output(0, context->UnknownShapeOfRank(3));
  return absl::Status();
}

#define LAYER_OPERATION(name)        \
  REGISTER_OP(name)                  \
      .Attr("T: {float, bfloat16}")  \
      .Attr("count: int")            \
      .Attr("heads: int")            \
      .Attr("epsilon: float")        \
      .Attr("attention_rate: float") \
      .Attr("hidden_rate: float")    \
      .SetShapeFn(LayerShapes)
#define LAYER_INPUTS(operation)      \
  operation.Input("hidden: T")       \
      .Input("segment_ids: int32")   \
      .Input("read_positions: int32") \
      .Input("seeds: int32")         \
      .Input("weights: count * float")
// What the forward pass hands to the backward one: Output or Input.
#define LAYER_SAVED(operation, Kind) \
  operation.Kind("query: T")         \
      .Kind("key: T")                \
      .Kind("value: T")              \
      .Kind("log_sums: float")       \
      .Kind("context: T")            \
      .Kind("normalized_1: float")   \
      .Kind("inverse_1: float")      \
      .Kind("attended: T")           \
      .Kind("activated: T")          \
      .Kind("slopes: T")             \
      .Kind("normalized_2: float")   \
      .Kind("inverse_2: float")

LAYER_SAVED(LAYER_INPUTS(LAYER_OPERATION("BertLayer")).Output("output: T"), Output);
LAYER_SAVED(LAYER_INPUTS(LAYER_OPERATION("BertLayerGrad").Input("upstream: T")), Input)
    .Output("of_hidden: T")
    .Output("of_weights: count * float");

// --- AdamWUpdate --------------------------------------------------------------------------------------------------------------

class AdamWKernel : public tf::OpKernel {
 public:
  explicit AdamWKernel(tf::OpKernelConstruction* construction) : OpKernel(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("dense", &dense_));
    OP_REQUIRES_OK(construction, construction->GetAttr("averages", &averages_));
    OP_REQUIRES_OK(construction, construction->GetAttr("beta_1", &rates_.beta_1));
    OP_REQUIRES_OK(construction, construction->GetAttr("beta_2", &rates_.beta_2));
    OP_REQUIRES_OK(construction, construction->GetAttr("average_rate", &rates_.average_rate));
    OP_REQUIRES_OK(construction, construction->GetAttr("max_gradient_norm", &rates_.max_gradient_norm));
    OP_REQUIRES_OK(construction, construction->GetAttr("decay_rates", &decay_rates_));
    OP_REQUIRES_OK(construction, construction->GetAttr("multiples", &multiples_));
  }

  void Compute(tf::OpKernelContext* context) override {
    Call call(context);
    const tf::Tensor& step = call.Next();
    const float* numbers = Numbers<float>(step);
    AdamWRates rates = rates_;
    rates.correction = numbers[1];
    rates.epsilon = numbers[2];
    const size_t count = decay_rates_.size();
    std::vector<Updated> all(count);
    std::vector<tf::core::RefCountPtr<tf::Var>> variables;
    for (size_t i = 0; i < count; ++i) {
      OP_REQUIRES_OK(context, Open(context, call.NextVariable(), &variables, &all[i].weights));
      const tf::Tensor& weights = *variables.back()->tensor();
      all[i].rows = weights.dims() > 0 ? weights.dim_size(0) : 1;
      all[i].width = all[i].rows > 0 ? weights.NumElements() / all[i].rows : 1;
      all[i].decay_rate = decay_rates_[i];
      all[i].learning_rate = numbers[0] * multiples_[i];
    }
    for (Updated& updated : all) OP_REQUIRES_OK(context, Open(context, call.NextVariable(), &variables, &updated.first));
    for (Updated& updated : all) OP_REQUIRES_OK(context, Open(context, call.NextVariable(), &variables, &updated.second));
    for (int i = 0; i < averages_; ++i) {
      OP_REQUIRES_OK(context, Open(context, call.NextVariable(), &variables, &all[i].average));
    }
    for (size_t i = 0; i < count; ++i) {
      const tf::Tensor& gradient = call.Next();
      all[i].gradient = Numbers<float>(gradient);
      if (i >= static_cast<size_t>(dense_)) all[i].listed = gradient.dim_size(0);
    }
    for (size_t i = dense_; i < count; ++i) all[i].listed_rows = Numbers<int32_t>(call.Next());
    UpdateAdamW(all, rates);
  }

 private:
  // Finds a variable, and its numbers to be changed in place: copied first where something else reads them still.
  static absl::Status Open(tf::OpKernelContext* context, const tf::ResourceHandle& handle,
                         std::vector<tf::core::RefCountPtr<tf::Var>>* variables, float** numbers) {
    tf::core::RefCountPtr<tf::Var> variable;
    absl::Status status = LookupResource(context, handle, &variable);
    if (!status.ok()) return status;
    {
      tf::mutex_lock lock(*variable->mu());
      tf::Tensor* tensor = variable->tensor();
      if (!tensor->RefCountIsOne()) {
        tf::Tensor copy;
        status = context->allocate_temp(tensor->dtype(), tensor->shape(), &copy);
        if (!status.ok()) return status;
        std::memcpy(copy.data(), tensor->data(), copy.TotalBytes());
        *tensor = copy;
      }
      *numbers = Numbers<float>(*tensor);
    }
    variables->push_back(std::move(variable));
    return status;
  }

  AdamWRates rates_{};
  int dense_ = 0, averages_ = 0;
  std::vector<float> decay_rates_, multiples_;
};

// The first `dense` variables have dense gradients, the rest listed rows, each row once. `step`: learning rate, and
// AdamWRates' correction and epsilon.
REGISTER_OP("AdamWUpdate")
    .Attr("count: int")
    .Attr("dense: int")
    .Attr("listed: int >= 0")
    .Attr("averages: int >= 0")
    .Attr("beta_1: float")
    .Attr("beta_2: float")
    .Attr("average_rate: float")
    .Attr("max_gradient_norm: float")
    .Attr("decay_rates: list(float)")
    .Attr("multiples: list(float)")
    .Input("step: float")
    .Input("variables: count * resource")
    .Input("first: count * resource")
    .Input("second: count * resource")
    .Input("average: averages * resource")
    .Input("gradients: count * float")
    .Input("listed_rows: listed * int32")
    .SetIsStateful()
    .SetShapeFn(tf::shape_inference::NoOutputs);
REGISTER_KERNEL_BUILDER(Name("AdamWUpdate").Device(tf::DEVICE_CPU), AdamWKernel);

// --- MatrixProduct: what the layers multiply with, to be measured and tested by itself ---------------------------------------------

template <typename T>
class ProductKernel : public tf::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tf::OpKernelContext* context) override {
    Call call(context);
    const tf::Tensor &left = call.Next(), &right = call.Next();
    const long rows = left.dim_size(0), inner = left.dim_size(1), columns = right.dim_size(1);
    float* product = call.Allocate<float>({rows, columns});
    if (!call.ok()) return;
    Multiply(rows, columns, inner, RowMajor(Numbers<T>(left), inner), RowMajor(Numbers<float>(right), columns),
             [&](const Tile& tile) {
               tile.ForEach(columns, [&](long place, long, float sum) { product[place] = sum; });
             });
  }
};

REGISTER_OP("MatrixProduct")
    .Attr("T: {float, bfloat16}")
    .Input("left: T")
    .Input("right: float")
    .Output("product: float")
    .SetShapeFn(tf::shape_inference::UnknownShape);

#define REGISTER_KERNELS(T)                                                                                                  \
  REGISTER_KERNEL_BUILDER(Name("BertEmbeddings").Device(tf::DEVICE_CPU).TypeConstraint<InTensorFlow<T>::Type>("T"),         \
                          EmbeddingsForwardKernel<T>);                                                                       \
  REGISTER_KERNEL_BUILDER(Name("BertEmbeddingsGrad").Device(tf::DEVICE_CPU).TypeConstraint<InTensorFlow<T>::Type>("T"),     \
                          EmbeddingsBackwardKernel<T>);                                                                      \
  REGISTER_KERNEL_BUILDER(Name("BertLayer").Device(tf::DEVICE_CPU).TypeConstraint<InTensorFlow<T>::Type>("T"),              \
                          LayerForwardKernel<T>);                                                                            \
  REGISTER_KERNEL_BUILDER(Name("BertLayerGrad").Device(tf::DEVICE_CPU).TypeConstraint<InTensorFlow<T>::Type>("T"),          \
                          LayerBackwardKernel<T>);                                                                           \
  REGISTER_KERNEL_BUILDER(Name("MatrixProduct").Device(tf::DEVICE_CPU).TypeConstraint<InTensorFlow<T>::Type>("T"),          \
                          ProductKernel<T>)
REGISTER_KERNELS(float);
REGISTER_KERNELS(BFloat16);

}  // namespace
}  // namespace trainer
