// The operations of generation for TensorFlow, on CPUs only: BertDecoderStep, LikeliestTokens.

#include <cstring>
#include <utility>
#include <vector>

#include "decoder.h"
#include "operation.h"

namespace trainer {
namespace {

using Shapes = tf::shape_inference::InferenceContext;

// --- BertDecoderStep ----------------------------------------------------------------------------------------------------------

constexpr char kStep[] = "BertDecoderStep";

class DecoderStepKernel : public Kernel {
 public:
  explicit DecoderStepKernel(tf::OpKernelConstruction* construction) : Kernel(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("layers", &layers_));
    OP_REQUIRES_OK(construction, construction->GetAttr("heads", &heads_));
    OP_REQUIRES_OK(construction, construction->GetAttr("inner", &inner_));
    OP_REQUIRES_OK(construction, construction->GetAttr("epsilon", &epsilon_));
  }

  void Run(tf::OpKernelContext* context) override {
    Call call(context);
    const tf::Tensor &ids = call.Next(), &place = call.Next(), &is_open = call.Next(), &ancestors = call.Next();
    const tf::Tensor &source_lengths = call.Next(), &memory = call.Next(), &cache = call.Next();
    const tf::Tensor &words = call.Next(), &positions = call.Next(), &types = call.Next();
    const tf::Tensor &vectors = call.Next(), &matrices = call.Next();
    OP_REQUIRES_OK(context, HasShape(kStep, "ids", ids, {-1, -1}));
    OP_REQUIRES_OK(context, HasShape(kStep, "place", place, {}));
    const long examples = ids.dim_size(0), beams = ids.dim_size(1);
    OP_REQUIRES_OK(context, HasShape(kStep, "is_open", is_open, {examples}));
    OP_REQUIRES_OK(context, HasShape(kStep, "ancestors", ancestors, {examples, beams, -1}));
    OP_REQUIRES_OK(context, HasShape(kStep, "source_lengths", source_lengths, {examples}));
    OP_REQUIRES_OK(context, HasShape(kStep, "words", words, {-1, -1}));
    const long hidden = words.dim_size(1), places = ancestors.dim_size(2);
    OP_REQUIRES_OK(context, HasShape(kStep, "memory", memory, {layers_, 2, examples, -1, hidden}));
    OP_REQUIRES_OK(context, HasShape(kStep, "cache", cache, {layers_, 2, examples, places, beams, hidden}));
    OP_REQUIRES_OK(context, HasShape(kStep, "positions", positions, {-1, hidden}));
    OP_REQUIRES_OK(context, HasShape(kStep, "types", types, {-1, hidden}));
    OP_REQUIRES_OK(context, InRange(kStep, "ids", ids, words.dim_size(0)));
    OP_REQUIRES_OK(context, InRange(kStep, "place", place, std::min<long>(places, positions.dim_size(0))));
    OP_REQUIRES_OK(context, InRange(kStep, "ancestors", ancestors, beams));
    OP_REQUIRES_OK(context, InRange(kStep, "source_lengths", source_lengths, memory.dim_size(3) + 1));
    OP_REQUIRES(context, hidden % heads_ == 0, Invalid(kStep, "the numbers of a token cannot be shared by the heads"));
    const DecoderShape shape{examples, beams, places, memory.dim_size(3), hidden, heads_, inner_, epsilon_};
    Embeddings embeddings{Numbers<float>(words), Numbers<float>(types), Numbers<float>(positions), nullptr, nullptr};
    const float *vector = Numbers<float>(vectors), *matrix = Numbers<float>(matrices);
    const auto next_vector = [&](long count) { return std::exchange(vector, vector + count); };
    const auto next_matrix = [&](long rows, long columns) { return std::exchange(matrix, matrix + PanelSize(rows, columns)); };
    const auto size_of = [](const tf::Tensor& tensor) { return tensor.NumElements(); };
    OP_REQUIRES(context, size_of(vectors) == VectorCount(hidden), Invalid(kStep, "vectors have another size"));
    OP_REQUIRES(context, size_of(matrices) == MatrixCount(hidden), Invalid(kStep, "matrices have another size"));
    embeddings.gamma = next_vector(hidden);
    embeddings.beta = next_vector(hidden);
    std::vector<DecoderLayer> layers(layers_);
    for (DecoderLayer& layer : layers) {
      for (int i = 0; i < kWeights; ++i) {
        const long rows = RowsOf(i, hidden, inner_), columns = ColumnsOf(i, hidden, inner_);
        (IsMatrix(i) ? layer.own.matrices[i] : layer.own.vectors[i]) = IsMatrix(i) ? next_matrix(rows, columns) : next_vector(columns);
      }
      layer.cross.query = next_matrix(hidden, hidden);
      layer.cross.output = next_matrix(hidden, hidden);
      for (const float** one : {&layer.cross.query_bias, &layer.cross.output_bias, &layer.cross.gamma, &layer.cross.beta}) {
        *one = next_vector(hidden);
      }
    }
    float* output = call.Allocate<float>({examples, beams, hidden});
    if (!call.ok()) return;
    // In place where nobody else reads the cache, as in a loop; else in a copy.
    tf::Tensor* after = nullptr;
    constexpr int kCache = 6;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({kCache}, 1, cache.shape(), &after));
    if (Numbers<float>(*after) != Numbers<float>(cache)) std::memcpy(after->data(), cache.data(), cache.TotalBytes());
    const DecoderStep step{*Numbers<int32_t>(place),
                           Numbers<int32_t>(ids),
                           Numbers<int32_t>(ancestors),
                           Numbers<int32_t>(source_lengths),
                           Numbers<bool>(is_open),
                           Numbers<float>(memory),
                           Numbers<float>(*after)};
    Decode(shape, step, embeddings, layers, output);
  }

 private:
  long VectorCount(long hidden) const {
    long of_layer = 4 * hidden;  // of the attention to the source
    for (int i = 0; i < kWeights; ++i) of_layer += IsMatrix(i) ? 0 : ColumnsOf(i, hidden, inner_);
    return 2 * hidden + layers_ * of_layer;
  }
  long MatrixCount(long hidden) const {
    long of_layer = 2 * PanelSize(hidden, hidden);
    for (int i = 0; i < kWeights; ++i) {
      of_layer += IsMatrix(i) ? PanelSize(RowsOf(i, hidden, inner_), ColumnsOf(i, hidden, inner_)) : 0;
    }
    return layers_ * of_layer;
  }

  int layers_ = 0, heads_ = 0, inner_ = 0;
  float epsilon_ = 0.0f;
};

// Shapes as in `DecoderStep`. `vectors` and `matrices` (in panels): gamma and beta of the embeddings; then for each layer its own
// weights in the order of arrays.h, and those of its attention to the source in the order of `CrossAttention`.
REGISTER_OP("BertDecoderStep")
    .Attr("layers: int")
    .Attr("heads: int")
    .Attr("inner: int")
    .Attr("epsilon: float")
    .Input("ids: int32")
    .Input("place: int32")
    .Input("is_open: bool")
    .Input("ancestors: int32")
    .Input("source_lengths: int32")
    .Input("memory: float")
    .Input("cache: float")
    .Input("words: float")
    .Input("positions: float")
    .Input("types: float")
    .Input("vectors: float")
    .Input("matrices: float")
    .Output("hidden: float")
    .Output("cache_after: float")
    .SetShapeFn([](Shapes* context) {
      tf::shape_inference::ShapeHandle hidden;
      const auto words = context->input(7);
      const auto width = context->RankKnown(words) ? context->Dim(words, 1) : context->UnknownDim();
      TF_RETURN_IF_ERROR(context->Concatenate(context->input(0), context->Vector(width), &hidden));
      context->set_output(0, hidden);
      context->set_output(1, context->input(6));
      return absl::OkStatus();
    });
REGISTER_KERNEL_BUILDER(Name("BertDecoderStep").Device(tf::DEVICE_CPU), DecoderStepKernel);

// --- LikeliestTokens ----------------------------------------------------------------------------------------------------------

constexpr char kLikeliest[] = "LikeliestTokens";

class LikeliestTokensKernel : public Kernel {
 public:
  explicit LikeliestTokensKernel(tf::OpKernelConstruction* construction) : Kernel(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("count", &count_));
  }

  void Run(tf::OpKernelContext* context) override {
    Call call(context);
    const tf::Tensor &hidden = call.Next(), &is_open = call.Next(), &vocabulary = call.Next(), &bias = call.Next();
    OP_REQUIRES_OK(context, HasShape(kLikeliest, "hidden", hidden, {-1, -1, -1}));
    OP_REQUIRES_OK(context, HasShape(kLikeliest, "is_open", is_open, {hidden.dim_size(0)}));
    OP_REQUIRES_OK(context, HasShape(kLikeliest, "vocabulary", vocabulary, {-1}));
    OP_REQUIRES_OK(context, HasShape(kLikeliest, "bias", bias, {-1}));
    const long tokens = bias.NumElements();
    OP_REQUIRES(context, vocabulary.NumElements() == PanelSize(hidden.dim_size(2), tokens),
                Invalid(kLikeliest, "the vocabulary has another size"));
    OP_REQUIRES(context, count_ >= 1 && count_ <= tokens, Invalid(kLikeliest, "more are asked for than there are tokens"));
    DecoderShape shape{};
    shape.examples = hidden.dim_size(0);
    shape.beams = hidden.dim_size(1);
    shape.hidden = hidden.dim_size(2);
    float* values = call.Allocate<float>({shape.examples, shape.beams, count_});
    int32_t* ids = call.Allocate<int32_t>({shape.examples, shape.beams, count_});
    float* log_totals = call.Allocate<float>({shape.examples, shape.beams});
    if (!call.ok()) return;
    LikeliestTokens(shape, Numbers<bool>(is_open), Numbers<float>(hidden), Numbers<float>(vocabulary), Numbers<float>(bias),
                    tokens, count_, values, ids, log_totals);
  }

 private:
  int count_ = 0;
};

// The `count` highest logits of each beam, [E, B, count]; `vocabulary` is [H, V] in panels.
REGISTER_OP("LikeliestTokens")
    .Attr("count: int >= 1")
    .Input("hidden: float")
    .Input("is_open: bool")
    .Input("vocabulary: float")
    .Input("bias: float")
    .Output("values: float")
    .Output("ids: int32")
    .Output("log_totals: float")
    .SetShapeFn([](Shapes* context) {
      tf::shape_inference::ShapeHandle beams, values;
      TF_RETURN_IF_ERROR(context->Subshape(context->input(0), 0, 2, &beams));
      int count = 0;
      TF_RETURN_IF_ERROR(context->GetAttr("count", &count));
      TF_RETURN_IF_ERROR(context->Concatenate(beams, context->Vector(count), &values));
      context->set_output(0, values);
      context->set_output(1, values);
      context->set_output(2, beams);
      return absl::OkStatus();
    });
REGISTER_KERNEL_BUILDER(Name("LikeliestTokens").Device(tf::DEVICE_CPU), LikeliestTokensKernel);

}  // namespace
}  // namespace trainer
