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

using Shapes = tf::shape_inference::InferenceContext;
using Dimension = tf::shape_inference::DimensionHandle;

// A dimension of an input, unknown where its rank is.
Dimension DimensionOf(Shapes* context, int input, int place) {
  const auto shape = context->input(input);
  return context->RankKnown(shape) && context->Rank(shape) > place ? context->Dim(shape, place) : context->UnknownDim();
}

// --- BertEmbeddings -----------------------------------------------------------------------------------------------------------

template <typename T>
class EmbeddingsForwardKernel : public Kernel {
 public:
  explicit EmbeddingsForwardKernel(tf::OpKernelConstruction* construction) : Kernel(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("epsilon", &epsilon_));
    OP_REQUIRES_OK(construction, construction->GetAttr("rate", &rate_));
  }

  void Run(tf::OpKernelContext* context) override {
    Call call(context);
    const tf::Tensor &word_ids = call.Next(), &type_ids = call.Next(), &position_ids = call.Next();
    const tf::Tensor &words = call.Next(), &types = call.Next(), &positions = call.Next();
    const tf::Tensor &gamma = call.Next(), &beta = call.Next(), &seed = call.Next();
    OP_REQUIRES_OK(context, HasShape("BertEmbeddings", "word_ids", word_ids, {-1}));
    const long tokens = word_ids.NumElements();
    OP_REQUIRES_OK(context, HasShape("BertEmbeddings", "type_ids", type_ids, {tokens}));
    OP_REQUIRES_OK(context, HasShape("BertEmbeddings", "position_ids", position_ids, {tokens}));
    OP_REQUIRES_OK(context, HasShape("BertEmbeddings", "words", words, {-1, -1}));
    const long width = words.dim_size(1);
    OP_REQUIRES_OK(context, HasShape("BertEmbeddings", "types", types, {-1, width}));
    OP_REQUIRES_OK(context, HasShape("BertEmbeddings", "positions", positions, {-1, width}));
    OP_REQUIRES_OK(context, HasShape("BertEmbeddings", "gamma", gamma, {width}));
    OP_REQUIRES_OK(context, HasShape("BertEmbeddings", "beta", beta, {width}));
    OP_REQUIRES_OK(context, HasShape("BertEmbeddings", "seed", seed, {2}));
    OP_REQUIRES_OK(context, InRange("BertEmbeddings", "word_ids", word_ids, words.dim_size(0)));
    OP_REQUIRES_OK(context, InRange("BertEmbeddings", "type_ids", type_ids, types.dim_size(0)));
    OP_REQUIRES_OK(context, InRange("BertEmbeddings", "position_ids", position_ids, positions.dim_size(0)));
    const Dropout dropout(rate_, Numbers<int32_t>(seed));
    T* output = call.Allocate<T>({tokens, width});
    float* normalized = call.Allocate<float>({tokens, width});
    float* inverse = call.Allocate<float>({tokens});
    if (!call.ok()) return;
    Embed(EmbeddedIds{tokens, Numbers<int32_t>(word_ids), Numbers<int32_t>(type_ids), Numbers<int32_t>(position_ids)}, width,
          epsilon_, Embeddings{Numbers<float>(words), Numbers<float>(types), Numbers<float>(positions), Numbers<float>(gamma),
                     Numbers<float>(beta)},
          dropout,
          normalized, inverse, output);
  }

 private:
  float epsilon_ = 0.0f, rate_ = 0.0f;
};

template <typename T>
class EmbeddingsBackwardKernel : public Kernel {
 public:
  explicit EmbeddingsBackwardKernel(tf::OpKernelConstruction* construction) : Kernel(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("types", &types_));
    OP_REQUIRES_OK(construction, construction->GetAttr("positions", &positions_));
    OP_REQUIRES_OK(construction, construction->GetAttr("rate", &rate_));
  }

  void Run(tf::OpKernelContext* context) override {
    Call call(context);
    const tf::Tensor &upstream = call.Next(), &type_ids = call.Next(), &position_ids = call.Next();
    const tf::Tensor &gamma = call.Next(), &normalized = call.Next(), &inverse = call.Next(), &seed = call.Next();
    constexpr char kName[] = "BertEmbeddingsGrad";
    OP_REQUIRES_OK(context, HasShape(kName, "upstream", upstream, {-1, -1}));
    const long tokens = upstream.dim_size(0), width = upstream.dim_size(1);
    OP_REQUIRES_OK(context, HasShape(kName, "type_ids", type_ids, {tokens}));
    OP_REQUIRES_OK(context, HasShape(kName, "position_ids", position_ids, {tokens}));
    OP_REQUIRES_OK(context, HasShape(kName, "gamma", gamma, {width}));
    OP_REQUIRES_OK(context, HasShape(kName, "normalized", normalized, {tokens, width}));
    OP_REQUIRES_OK(context, HasShape(kName, "inverse", inverse, {tokens}));
    OP_REQUIRES_OK(context, HasShape(kName, "seed", seed, {2}));
    OP_REQUIRES_OK(context, InRange(kName, "type_ids", type_ids, types_));
    OP_REQUIRES_OK(context, InRange(kName, "position_ids", position_ids, positions_));
    const Dropout dropout(rate_, Numbers<int32_t>(seed));
    float* of_sum = call.Allocate<float>({tokens, width});
    float* of_types = call.Allocate<float>({types_, width});
    float* of_positions = call.Allocate<float>({positions_, width});
    float* of_gamma = call.Allocate<float>({width});
    float* of_beta = call.Allocate<float>({width});
    if (!call.ok()) return;
    EmbedBackward(tokens, width, Numbers<T>(upstream), Numbers<float>(gamma), Numbers<float>(normalized),
                  Numbers<float>(inverse), dropout, {of_sum, of_gamma, of_beta});
    AddRows(tokens, types_, width, Numbers<int32_t>(type_ids), of_sum, of_types);
    AddRows(tokens, positions_, width, Numbers<int32_t>(position_ids), of_sum, of_positions);
  }

 private:
  int types_ = 0, positions_ = 0;
  float rate_ = 0.0f;
};

// Ids are of tokens without padding, [tokens]; `seed` is dropout's, [2].
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
    .SetShapeFn([](Shapes* context) {
      const Dimension tokens = DimensionOf(context, 0, 0), width = DimensionOf(context, 3, 1);
      for (int i = 0; i < 2; ++i) context->set_output(i, context->MakeShape({tokens, width}));
      context->set_output(2, context->MakeShape({tokens}));
      return absl::OkStatus();
    });

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
    .SetShapeFn([](Shapes* context) {
      const Dimension width = DimensionOf(context, 0, 1);
      int types = 0, positions = 0;
      TF_RETURN_IF_ERROR(context->GetAttr("types", &types));
      TF_RETURN_IF_ERROR(context->GetAttr("positions", &positions));
      context->set_output(0, context->MakeShape({DimensionOf(context, 0, 0), width}));
      context->set_output(1, context->MakeShape({context->MakeDim(types), width}));
      context->set_output(2, context->MakeShape({context->MakeDim(positions), width}));
      for (int i = 3; i < 5; ++i) context->set_output(i, context->MakeShape({width}));
      return absl::OkStatus();
    });

// --- BertLayer ----------------------------------------------------------------------------------------------------------------

template <typename T>
class LayerKernel : public Kernel {
 public:
  explicit LayerKernel(tf::OpKernelConstruction* construction) : Kernel(construction) {
    int heads = 0;
    OP_REQUIRES_OK(construction, construction->GetAttr("heads", &heads));
    shape_.heads = heads;
    OP_REQUIRES_OK(construction, construction->GetAttr("epsilon", &shape_.epsilon));
    OP_REQUIRES_OK(construction, construction->GetAttr("attention_rate", &shape_.attention_rate));
    OP_REQUIRES_OK(construction, construction->GetAttr("hidden_rate", &shape_.hidden_rate));
  }

 protected:
  // Reads what both passes read, and checks it.
  absl::Status ReadInputs(Call* call, LayerShape* shape, LayerInputs<T>* in) const {
    constexpr char kName[] = "BertLayer";
    *shape = shape_;
    const tf::Tensor &hidden = call->Next(), &segment_ids = call->Next(), &read = call->Next(), &seeds = call->Next();
    TF_RETURN_IF_ERROR(HasShape(kName, "hidden", hidden, {-1, -1, -1}));
    shape->rows = hidden.dim_size(0);
    shape->length = hidden.dim_size(1);
    shape->hidden = hidden.dim_size(2);
    TF_RETURN_IF_ERROR(HasShape(kName, "segment_ids", segment_ids, {shape->rows, shape->length}));
    TF_RETURN_IF_ERROR(HasShape(kName, "read_positions", read, {-1, -1}));
    TF_RETURN_IF_ERROR(HasShape(kName, "seeds", seeds, {3, 2}));
    if (shape->heads < 1 || shape->hidden % shape->heads != 0) {
      return Invalid(kName, std::to_string(shape->hidden) + " numbers of a token cannot be shared by " +
                                std::to_string(shape->heads) + " heads");
    }
    const bool reads_all = read.dim_size(1) == 0;
    if (!reads_all) {
      TF_RETURN_IF_ERROR(HasShape(kName, "read_positions", read, {shape->rows, -1}));
      TF_RETURN_IF_ERROR(InRange(kName, "read_positions", read, shape->length));
    }
    shape->readers = reads_all ? shape->length : read.dim_size(1);
    in->hidden = Numbers<T>(hidden);
    in->segment_ids = Numbers<int32_t>(segment_ids);
    in->read_positions = reads_all ? nullptr : Numbers<int32_t>(read);
    in->seeds = Numbers<int32_t>(seeds);
    std::vector<const tf::Tensor*> weights(kWeights);
    for (const tf::Tensor*& weight : weights) weight = &call->Next();
    TF_RETURN_IF_ERROR(HasShape(kName, "weights", *weights[kInner], {shape->hidden, -1}));
    shape->inner = weights[kInner]->dim_size(1);
    for (int i = 0; i < kWeights; ++i) {
      const long rows = RowsOf(i, shape->hidden, shape->inner), columns = ColumnsOf(i, shape->hidden, shape->inner);
      std::vector<int64_t> sizes{columns};
      if (IsMatrix(i)) sizes.insert(sizes.begin(), rows);
      TF_RETURN_IF_ERROR(HasShape(kName, "weights", *weights[i], sizes));
      in->weights[i] = Numbers<float>(*weights[i]);
    }
    return absl::OkStatus();
  }

 private:
  LayerShape shape_{};
};

template <typename T>
class LayerForwardKernel : public LayerKernel<T> {
 public:
  using LayerKernel<T>::LayerKernel;

  void Run(tf::OpKernelContext* context) override {
    Call call(context);
    LayerInputs<T> in{};
    LayerShape shape{};
    OP_REQUIRES_OK(context, this->ReadInputs(&call, &shape, &in));
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

  void Run(tf::OpKernelContext* context) override {
    Call call(context);
    const tf::Tensor& upstream = call.Next();
    LayerInputs<T> in{};
    LayerShape shape{};
    OP_REQUIRES_OK(context, this->ReadInputs(&call, &shape, &in));
    const int64_t b = shape.rows, l = shape.length, p = shape.readers, n = shape.hidden, inner = shape.inner;
    constexpr char kName[] = "BertLayerGrad";
    OP_REQUIRES_OK(context, HasShape(kName, "upstream", upstream, {b, p, n}));
    absl::Status status;
    const auto next = [&](const char* name, const std::vector<int64_t>& sizes) -> const tf::Tensor& {
      const tf::Tensor& tensor = call.Next();
      status.Update(HasShape(kName, name, tensor, sizes));
      return tensor;
    };
    LayerOutputs<T> saved{};
    saved.query = Numbers<T>(next("query", {b, p, n}));
    saved.key = Numbers<T>(next("key", {b, l, n}));
    saved.value = Numbers<T>(next("value", {b, l, n}));
    saved.log_sums = Numbers<float>(next("log_sums", {b, p, shape.heads}));
    saved.context = Numbers<T>(next("context", {b, p, n}));
    saved.normalized_1 = Numbers<float>(next("normalized_1", {b, p, n}));
    saved.inverse_1 = Numbers<float>(next("inverse_1", {b, p}));
    saved.attended = Numbers<T>(next("attended", {b, p, n}));
    saved.activated = Numbers<T>(next("activated", {b, p, inner}));
    saved.slopes = Numbers<T>(next("slopes", {b, p, inner}));
    saved.normalized_2 = Numbers<float>(next("normalized_2", {b, p, n}));
    saved.inverse_2 = Numbers<float>(next("inverse_2", {b, p}));
    OP_REQUIRES_OK(context, status);
    const long h = shape.hidden, f = shape.inner;
    LayerGradients<T> out{};
    out.hidden = call.Allocate<T>({shape.rows, shape.length, h});
    for (int i = 0; i < kWeights; ++i) {
      const long rows = RowsOf(i, h, f), columns = ColumnsOf(i, h, f);
      out.weights[i] = IsMatrix(i) ? call.Allocate<float>({rows, columns}) : call.Allocate<float>({columns});
    }
    if (call.ok()) LayerBackward(shape, in, saved, Numbers<T>(upstream), out);
  }
};

// Shapes by the letters of arrays.h, from the inputs "hidden", "read_positions" and the weight kInner on.
struct LayerDimensions {
  Dimension rows, length, readers, hidden, heads, inner;
};

absl::Status DimensionsOf(Shapes* context, int first_input, LayerDimensions* found) {
  int heads = 0;
  TF_RETURN_IF_ERROR(context->GetAttr("heads", &heads));
  found->rows = DimensionOf(context, first_input, 0);
  found->length = DimensionOf(context, first_input, 1);
  found->hidden = DimensionOf(context, first_input, 2);
  found->heads = context->MakeDim(heads);
  const Dimension read = DimensionOf(context, first_input + 2, 1);
  const bool is_known = context->ValueKnown(read);
  found->readers = !is_known ? context->UnknownDim() : context->Value(read) == 0 ? found->length : read;
  found->inner = DimensionOf(context, first_input + 4 + kInner, 1);
  return absl::OkStatus();
}

absl::Status LayerShapes(Shapes* context) {
  LayerDimensions d;
  TF_RETURN_IF_ERROR(DimensionsOf(context, 0, &d));
  const auto of_readers = context->MakeShape({d.rows, d.readers, d.hidden});
  const auto of_cells = context->MakeShape({d.rows, d.length, d.hidden});
  const auto by_head = context->MakeShape({d.rows, d.readers, d.heads}), one_each = context->MakeShape({d.rows, d.readers});
  const auto wide = context->MakeShape({d.rows, d.readers, d.inner});
  // Output, query, key, value, log_sums, context, normalized_1, inverse_1, attended, activated, slopes, normalized_2, inverse_2.
  const std::vector<tf::shape_inference::ShapeHandle> shapes{of_readers, of_readers, of_cells,   of_cells, by_head,
                                                             of_readers, of_readers, one_each,   of_readers, wide,
                                                             wide,       of_readers, one_each};
  for (size_t i = 0; i < shapes.size(); ++i) context->set_output(static_cast<int>(i), shapes[i]);
  return absl::OkStatus();
}

absl::Status LayerGradientShapes(Shapes* context) {
  LayerDimensions d;
  TF_RETURN_IF_ERROR(DimensionsOf(context, 1, &d));
  context->set_output(0, context->MakeShape({d.rows, d.length, d.hidden}));
  for (int i = 0; i < kWeights; ++i) context->set_output(i + 1, context->input(5 + i));
  return absl::OkStatus();
}

#define LAYER_OPERATION(name, shapes) \
  REGISTER_OP(name)                  \
      .Attr("T: {float, bfloat16}")  \
      .Attr("count: int = 16")       \
      .Attr("heads: int")            \
      .Attr("epsilon: float")        \
      .Attr("attention_rate: float") \
      .Attr("hidden_rate: float")    \
      .SetShapeFn(shapes)
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

LAYER_SAVED(LAYER_INPUTS(LAYER_OPERATION("BertLayer", LayerShapes)).Output("output: T"), Output);
LAYER_SAVED(LAYER_INPUTS(LAYER_OPERATION("BertLayerGrad", LayerGradientShapes).Input("upstream: T")), Input)
    .Output("of_hidden: T")
    .Output("of_weights: count * float");

// --- AdamWUpdate --------------------------------------------------------------------------------------------------------------

class AdamWKernel : public Kernel {
 public:
  explicit AdamWKernel(tf::OpKernelConstruction* construction) : Kernel(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("dense", &dense_));
    OP_REQUIRES_OK(construction, construction->GetAttr("averages", &averages_));
    OP_REQUIRES_OK(construction, construction->GetAttr("beta_1", &rates_.beta_1));
    OP_REQUIRES_OK(construction, construction->GetAttr("beta_2", &rates_.beta_2));
    OP_REQUIRES_OK(construction, construction->GetAttr("max_gradient_norm", &rates_.max_gradient_norm));
    OP_REQUIRES_OK(construction, construction->GetAttr("decay_rates", &decay_rates_));
  }

  void Run(tf::OpKernelContext* context) override {
    Call call(context);
    const tf::Tensor &step = call.Next(), &multiples = call.Next();
    constexpr char kName[] = "AdamWUpdate";
    OP_REQUIRES_OK(context, HasShape(kName, "step", step, {4}));
    OP_REQUIRES_OK(context, HasShape(kName, "multiples", multiples, {static_cast<long>(decay_rates_.size())}));
    OP_REQUIRES(context, dense_ >= 0 && static_cast<size_t>(dense_) <= decay_rates_.size(),
                Invalid(kName, "more dense gradients than variables"));
    const float* numbers = Numbers<float>(step);
    AdamWRates rates = rates_;
    rates.correction = numbers[1];
    rates.epsilon = numbers[2];
    rates.average_rate = numbers[3];
    const size_t count = decay_rates_.size();
    std::vector<Updated> all(count);
    std::vector<tf::TensorShape> shapes(count);
    std::vector<tf::core::RefCountPtr<tf::Var>> variables;
    for (size_t i = 0; i < count; ++i) {
      OP_REQUIRES_OK(context, Open(context, call.NextVariable(), nullptr, &variables, &all[i].weights));
      const tf::Tensor& weights = *variables.back()->tensor();
      shapes[i] = weights.shape();
      all[i].rows = weights.dims() > 0 ? weights.dim_size(0) : 1;
      all[i].width = all[i].rows > 0 ? weights.NumElements() / all[i].rows : 1;
      all[i].decay_rate = decay_rates_[i];
      all[i].learning_rate = numbers[0] * Numbers<float>(multiples)[i];
    }
    for (size_t i = 0; i < count; ++i) OP_REQUIRES_OK(context, Open(context, call.NextVariable(), &shapes[i], &variables, &all[i].first));
    for (size_t i = 0; i < count; ++i) OP_REQUIRES_OK(context, Open(context, call.NextVariable(), &shapes[i], &variables, &all[i].second));
    OP_REQUIRES(context, averages_ == 0 || static_cast<size_t>(averages_) == count, Invalid(kName, "averages of other variables"));
    for (int i = 0; i < averages_; ++i) {
      OP_REQUIRES_OK(context, Open(context, call.NextVariable(), &shapes[i], &variables, &all[i].average));
    }
    for (size_t i = 0; i < count; ++i) {
      const tf::Tensor& gradient = call.Next();
      all[i].gradient = Numbers<float>(gradient);
      if (i < static_cast<size_t>(dense_)) {
        OP_REQUIRES(context, gradient.shape() == shapes[i], Invalid(kName, "a gradient has another shape than its variable"));
        continue;
      }
      OP_REQUIRES_OK(context, HasShape(kName, "gradients", gradient, {-1, all[i].width}));
      all[i].listed = gradient.dim_size(0);
    }
    for (size_t i = dense_; i < count; ++i) {
      const tf::Tensor& rows = call.Next();
      OP_REQUIRES_OK(context, HasShape(kName, "listed_rows", rows, {all[i].listed}));
      OP_REQUIRES_OK(context, InRange(kName, "listed_rows", rows, all[i].rows));
      all[i].listed_rows = Numbers<int32_t>(rows);
    }
    UpdateAdamW(all, rates);
  }

 private:
  // Finds a variable, and its numbers to be changed in place: copied first where something else reads them still.
  static absl::Status Open(tf::OpKernelContext* context, const tf::ResourceHandle& handle, const tf::TensorShape* shape,
                         std::vector<tf::core::RefCountPtr<tf::Var>>* variables, float** numbers) {
    tf::core::RefCountPtr<tf::Var> variable;
    absl::Status status = LookupResource(context, handle, &variable);
    if (!status.ok()) return status;
    {
      tf::mutex_lock lock(*variable->mu());
      tf::Tensor* tensor = variable->tensor();
      if (tensor->dtype() != tf::DT_FLOAT || (shape != nullptr && tensor->shape() != *shape)) {
        return Invalid("AdamWUpdate", "a variable has another shape or type than its weights");
      }
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
  std::vector<float> decay_rates_;
};

// The first `dense` variables have dense gradients, the rest listed rows, each row once. `step`: learning rate, and
// AdamWRates' correction, epsilon and average_rate. `multiples`: of the learning rate, for each variable.
REGISTER_OP("AdamWUpdate")
    .Attr("count: int")
    .Attr("dense: int")
    .Attr("listed: int >= 0")
    .Attr("averages: int >= 0")
    .Attr("beta_1: float")
    .Attr("beta_2: float")
    .Attr("max_gradient_norm: float")
    .Attr("decay_rates: list(float)")
    .Input("step: float")
    .Input("multiples: float")
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
class ProductKernel : public Kernel {
 public:
  using Kernel::Kernel;

  void Run(tf::OpKernelContext* context) override {
    Call call(context);
    const tf::Tensor &left = call.Next(), &right = call.Next();
    OP_REQUIRES_OK(context, HasShape("MatrixProduct", "left", left, {-1, -1}));
    OP_REQUIRES_OK(context, HasShape("MatrixProduct", "right", right, {left.dim_size(1), -1}));
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
    .SetShapeFn([](Shapes* context) {
      context->set_output(0, context->MakeShape({DimensionOf(context, 0, 0), DimensionOf(context, 1, 1)}));
      return absl::OkStatus();
    });

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
