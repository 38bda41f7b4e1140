// The operations of inference for TensorFlow: BertInputs, strings to the encoder's inputs, and BertEncoder; on CPUs only.

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "inference.h"
#include "operation.h"
#include "processor.h"
#include "wordpiece.h"

namespace trainer {
namespace {

// --- BertInputs ---------------------------------------------------------------------------------------------------------------

std::string_view View(const tf::tstring& string) { return {string.data(), string.size()}; }

constexpr char kInputs[] = "BertInputs";

class InputsKernel : public Kernel {
 public:
  explicit InputsKernel(tf::OpKernelConstruction* construction) : Kernel(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("texts", &texts_));
    OP_REQUIRES_OK(construction, construction->GetAttr("max_seq_length", &max_seq_length_));
    OP_REQUIRES_OK(construction, construction->GetAttr("row_tokens", &row_tokens_));
    OP_REQUIRES_OK(construction, construction->GetAttr("cls_id", &cls_id_));
    OP_REQUIRES_OK(construction, construction->GetAttr("sep_id", &sep_id_));
    OP_REQUIRES_OK(construction, construction->GetAttr("unk_id", &unk_id_));
    OP_REQUIRES_OK(construction, construction->GetAttr("suffix_indicator", &suffix_indicator_));
    OP_REQUIRES_OK(construction, construction->GetAttr("special_tokens", &special_tokens_));
    OP_REQUIRES_OK(construction, construction->GetAttr("special_ids", &special_ids_));
    OP_REQUIRES(construction, texts_ == 1 || texts_ == 2, Invalid(kInputs, "it takes one text or two"));
    OP_REQUIRES(construction, max_seq_length_ > 1 + texts_, Invalid(kInputs, "max_seq_length leaves no room for a token"));
    OP_REQUIRES(construction, special_tokens_.size() == special_ids_.size(), Invalid(kInputs, "special tokens without ids"));
    for (const std::string& token : special_tokens_) {
      OP_REQUIRES(construction, !token.empty(), Invalid(kInputs, "a special token is empty"));
    }
  }

  void Run(tf::OpKernelContext* context) override {
    Call call(context);
    std::vector<const tf::tstring*> columns;
    const long batch = context->input(0).NumElements();
    for (int i = 0; i < texts_; ++i) {
      const tf::Tensor& column = call.Next();
      OP_REQUIRES(context, column.NumElements() == batch,
                  absl::InvalidArgumentError("BertInputs: " + std::to_string(batch) + " first texts and " +
                                             std::to_string(column.NumElements()) + " second ones"));
      columns.push_back(Numbers<tf::tstring>(column));
    }
    const tf::Tensor& vocabulary = call.Next();
    const std::shared_ptr<const Pieces> held = PiecesOf(vocabulary);
    const WordPiece& pieces = held->pieces;
    CharacterTables tables{};
    const tf::Tensor &replacement_of = call.Next(), &replacements = call.Next(), &values = call.Next(), &starts = call.Next();
    const tf::Tensor &kind_of = call.Next(), &kinds = call.Next(), &starters_of = call.Next(), &starters = call.Next();
    const tf::Tensor &marks_of = call.Next(), &marks = call.Next();
    tables.reorders = marks_of.NumElements() > 0;
    OP_REQUIRES_OK(context, Table("replacement", replacement_of, replacements, starts.NumElements(), &tables.replacement));
    OP_REQUIRES_OK(context, Table("kind", kind_of, kinds, kPunctuation + 1, &tables.kind));
    if (tables.reorders) {
      OP_REQUIRES_OK(context, Table("starter", starters_of, starters, INT32_MAX, &tables.starters));
      OP_REQUIRES_OK(context, Table("mark", marks_of, marks, INT32_MAX, &tables.mark_order));
    }
    OP_REQUIRES_OK(context, InRange(kInputs, "replacement_starts", starts, values.NumElements() + 1));
    OP_REQUIRES_OK(context, InRange(kInputs, "replacement_values", values, kSpecial));
    OP_REQUIRES(context, std::is_sorted(Numbers<int32_t>(starts), Numbers<int32_t>(starts) + starts.NumElements()),
                Invalid(kInputs, "replacement_starts does not rise"));
    tables.replacement_values = Numbers<int32_t>(values);
    tables.replacement_starts = Numbers<int32_t>(starts);

    std::vector<std::vector<int32_t>> ids(batch);
    std::vector<size_t> first_lengths(batch);  // with [CLS] and [SEP]
    constexpr long kTextsEach = 8;             // of a thread at the least
    ParallelRanges(batch, kTextsEach, [&](long begin, long end) {
      for (long i = begin; i < end; ++i) ids[i] = Sequence(pieces, tables, columns, i, &first_lengths[i]);
    });
    const PackedTexts packed = PackInOrder(ids, row_tokens_);
    const long cells = packed.rows * packed.length;
    int32_t* of_cells[4];  // ids, types, positions, segments
    for (int32_t*& one : of_cells) one = call.Allocate<int32_t>({packed.rows, packed.length});
    int32_t* cls_positions = call.Allocate<int32_t>({packed.rows, packed.slots});
    int32_t* places = call.Allocate<int32_t>({batch});
    if (!call.ok()) return;
    for (int32_t* one : of_cells) std::fill_n(one, cells, 0);
    std::fill_n(cls_positions, packed.rows * packed.slots, 0);
    for (long i = 0; i < batch; ++i) {
      const long first_cell = packed.row[i] * packed.length + packed.start[i], length = static_cast<long>(ids[i].size());
      for (long j = 0; j < length; ++j) {
        of_cells[0][first_cell + j] = ids[i][j];
        of_cells[1][first_cell + j] = j >= static_cast<long>(first_lengths[i]);
        of_cells[2][first_cell + j] = static_cast<int32_t>(j);
        of_cells[3][first_cell + j] = static_cast<int32_t>(packed.slot[i]) + 1;
      }
      places[i] = static_cast<int32_t>(packed.row[i] * packed.slots + packed.slot[i]);
      cls_positions[places[i]] = static_cast<int32_t>(packed.start[i]);
    }
  }

 private:
  // A vocabulary, and what looks pieces of it up; they are views of it.
  struct Pieces {
    tf::Tensor vocabulary;
    WordPiece pieces;
  };

  // Checks a paged table: a page for each block of 256 code points, values in [0, limit).
  static absl::Status Table(const std::string& name, const tf::Tensor& page_of, const tf::Tensor& pages, long limit,
                            PagedTable* table) {
    const std::string of = name + "_pages_of", all = name + "_pages";
    TF_RETURN_IF_ERROR(HasShape(kInputs, of.c_str(), page_of, {kSpecial / 256}));
    TF_RETURN_IF_ERROR(HasShape(kInputs, all.c_str(), pages, {-1, 256}));
    TF_RETURN_IF_ERROR(InRange(kInputs, of.c_str(), page_of, pages.dim_size(0)));
    TF_RETURN_IF_ERROR(InRange(kInputs, all.c_str(), pages, limit));
    *table = {Numbers<int32_t>(page_of), Numbers<int32_t>(pages)};
    return absl::OkStatus();
  }

  static bool SameStrings(const tf::Tensor& a, const tf::Tensor& b) {
    if (a.SharesBufferWith(b)) return true;
    const tf::tstring *first = Numbers<tf::tstring>(a), *second = Numbers<tf::tstring>(b);
    return a.NumElements() == b.NumElements() && std::equal(first, first + a.NumElements(), second);
  }

  // The vocabulary to look pieces up in: made when it is first seen, and again for another one, as eager calls may bring.
  std::shared_ptr<const Pieces> PiecesOf(const tf::Tensor& vocabulary) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (held_ == nullptr || !SameStrings(held_->vocabulary, vocabulary)) {
      std::vector<std::string_view> tokens;
      for (long i = 0; i < vocabulary.NumElements(); ++i) tokens.push_back(View(Numbers<tf::tstring>(vocabulary)[i]));
      std::vector<std::pair<std::string, int32_t>> specials;
      for (size_t i = 0; i < special_tokens_.size(); ++i) specials.emplace_back(special_tokens_[i], special_ids_[i]);
      held_ = std::make_shared<const Pieces>(
          Pieces{vocabulary, WordPiece(tokens, suffix_indicator_, unk_id_, std::move(specials))});
    }
    return held_;
  }

  // [CLS] text [SEP], or [CLS] first [SEP] second [SEP], cut to max_seq_length.
  std::vector<int32_t> Sequence(const WordPiece& pieces, const CharacterTables& tables,
                                const std::vector<const tf::tstring*>& columns, long row, size_t* first_length) const {
    const size_t budget = max_seq_length_ - 1 - texts_;
    const size_t limit = texts_ == 1 ? budget : SIZE_MAX;  // of a pair it matters which is the longer
    std::vector<int32_t> first = pieces.Ids(tables, View(columns[0][row]), limit), second;
    if (texts_ == 1) {
      first.resize(std::min(first.size(), budget));
    } else {
      second = pieces.Ids(tables, View(columns[1][row]), limit);
      CutPair(&first, &second, budget);
    }
    std::vector<int32_t> ids{cls_id_};
    ids.insert(ids.end(), first.begin(), first.end());
    ids.push_back(sep_id_);
    *first_length = ids.size();
    if (texts_ == 2) {
      ids.insert(ids.end(), second.begin(), second.end());
      ids.push_back(sep_id_);
    }
    return ids;
  }

  int texts_ = 0, max_seq_length_ = 0, row_tokens_ = 0;
  int32_t cls_id_ = 0, sep_id_ = 0, unk_id_ = 0;
  std::string suffix_indicator_;
  std::vector<std::string> special_tokens_;
  std::vector<int32_t> special_ids_;
  std::mutex mutex_;
  std::shared_ptr<const Pieces> held_;
};

// Tables as in wordpiece.h: pages, and which of them each block has. Texts come one after the other in rows of about `row_tokens`;
// `places` says where each one's slot is, counted over rows and slots.
REGISTER_OP("BertInputs")
    .Attr("texts: int")
    .Attr("max_seq_length: int")
    .Attr("row_tokens: int")
    .Attr("cls_id: int")
    .Attr("sep_id: int")
    .Attr("unk_id: int")
    .Attr("suffix_indicator: string")
    .Attr("special_tokens: list(string)")
    .Attr("special_ids: list(int)")
    .Input("text: texts * string")
    .Input("vocabulary: string")
    .Input("replacement_pages_of: int32")
    .Input("replacement_pages: int32")
    .Input("replacement_values: int32")
    .Input("replacement_starts: int32")
    .Input("kind_pages_of: int32")
    .Input("kind_pages: int32")
    .Input("starter_pages_of: int32")
    .Input("starter_pages: int32")
    .Input("mark_pages_of: int32")
    .Input("mark_pages: int32")
    .Output("input_ids: int32")
    .Output("token_type_ids: int32")
    .Output("position_ids: int32")
    .Output("segment_ids: int32")
    .Output("cls_positions: int32")
    .Output("places: int32")
    .SetShapeFn([](tf::shape_inference::InferenceContext* context) {
      const auto unknown = context->UnknownDim();
      for (int i = 0; i < 5; ++i) context->set_output(i, context->MakeShape({unknown, unknown}));
      context->set_output(5, context->MakeShape({unknown}));
      return absl::OkStatus();
    });

// --- BertEncoder --------------------------------------------------------------------------------------------------------------

constexpr char kEncoder[] = "BertEncoder";

absl::Status Wrong(const std::string& what) { return absl::InvalidArgumentError(std::string(kEncoder) + ": " + what); }

template <typename T>
class EncoderKernel : public Kernel {
 public:
  explicit EncoderKernel(tf::OpKernelConstruction* construction) : Kernel(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("heads", &heads_));
    OP_REQUIRES_OK(construction, construction->GetAttr("inner", &inner_));
    OP_REQUIRES_OK(construction, construction->GetAttr("epsilon", &epsilon_));
    OP_REQUIRES_OK(construction, construction->GetAttr("layers", &layers_));
  }

  void Run(tf::OpKernelContext* context) override {
    Call call(context);
    const tf::Tensor &ids = call.Next(), &types = call.Next(), &positions = call.Next(), &segments = call.Next();
    const tf::Tensor &read = call.Next(), &words = call.Next(), &position_table = call.Next(), &type_table = call.Next();
    const tf::Tensor &vectors = call.Next(), &matrices = call.Next();
    OP_REQUIRES_OK(context, HasShape(kEncoder, "input_ids", ids, {-1, -1}));
    OP_REQUIRES_OK(context, HasShape(kEncoder, "read_positions", read, {-1, -1}));
    OP_REQUIRES_OK(context, HasShape(kEncoder, "words", words, {-1, -1}));
    OP_REQUIRES_OK(context, HasShape(kEncoder, "positions", position_table, {-1, words.dim_size(1)}));
    OP_REQUIRES_OK(context, HasShape(kEncoder, "types", type_table, {-1, words.dim_size(1)}));
    OP_REQUIRES_OK(context, HasShape(kEncoder, "vectors", vectors, {-1}));
    OP_REQUIRES_OK(context, HasShape(kEncoder, "matrices", matrices, {-1}));
    OP_REQUIRES(context, words.dim_size(1) % heads_ == 0, Wrong("the numbers of a token cannot be shared by the heads"));
    for (const tf::Tensor* one : {&types, &positions, &segments}) {
      OP_REQUIRES(context, one->shape() == ids.shape(), Wrong("ids, types, positions and segments differ in shape"));
    }
    OP_REQUIRES_OK(context, InRange(kEncoder, "input_ids", ids, words.dim_size(0)));
    OP_REQUIRES_OK(context, InRange(kEncoder, "token_type_ids", types, type_table.dim_size(0)));
    OP_REQUIRES_OK(context, InRange(kEncoder, "position_ids", positions, position_table.dim_size(0)));
    OP_REQUIRES_OK(context, InRange(kEncoder, "read_positions", read, ids.dim_size(1)));
    const bool reads_all = read.dim_size(1) == 0;
    OP_REQUIRES(context, reads_all || read.dim_size(0) == ids.dim_size(0), Wrong("read_positions has other rows than input_ids"));
    const Request request{ids.dim_size(0),
                          ids.dim_size(1),
                          reads_all ? ids.dim_size(1) : read.dim_size(1),
                          Numbers<int32_t>(ids),
                          Numbers<int32_t>(types),
                          Numbers<int32_t>(positions),
                          Numbers<int32_t>(segments),
                          reads_all ? nullptr : Numbers<int32_t>(read)};
    LayerShape shape{};
    shape.hidden = words.dim_size(1);
    shape.heads = heads_;
    shape.inner = inner_;
    shape.epsilon = epsilon_;
    Embeddings embeddings{Numbers<float>(words), Numbers<float>(type_table), Numbers<float>(position_table), nullptr, nullptr};
    long vector_count = 2 * shape.hidden, matrix_count = 0;  // known before anything is looked at
    for (int i = 0; i < kWeights; ++i) {
      const long columns = ColumnsOf(i, shape.hidden, inner_);
      if (IsMatrix(i)) {
        matrix_count += layers_ * PanelSize(RowsOf(i, shape.hidden, inner_), columns);
      } else {
        vector_count += layers_ * columns;
      }
    }
    OP_REQUIRES(context, vectors.NumElements() == vector_count, Wrong("vectors have another size"));
    OP_REQUIRES(context, matrices.NumElements() == matrix_count, Wrong("matrices have another size"));
    std::vector<ServedLayer<T>> layers(layers_);
    const float* vector = Numbers<float>(vectors);
    const T* matrix = Numbers<T>(matrices);
    embeddings.gamma = std::exchange(vector, vector + shape.hidden);
    embeddings.beta = std::exchange(vector, vector + shape.hidden);
    for (ServedLayer<T>& layer : layers) {
      for (int i = 0; i < kWeights; ++i) {
        const long columns = ColumnsOf(i, shape.hidden, inner_);
        if (IsMatrix(i)) {
          layer.matrices[i] = std::exchange(matrix, matrix + PanelSize(RowsOf(i, shape.hidden, inner_), columns));
        } else {
          layer.vectors[i] = std::exchange(vector, vector + columns);
        }
      }
    }
    const T* const first = Numbers<T>(matrices);
    if (held_.exchange(first) != first) HoldInHugePages(first, matrices.NumElements());
    float* output = call.Allocate<float>({request.rows, request.readers, shape.hidden});
    if (call.ok()) Serve(shape, request, embeddings, layers, output);
  }

 private:
  std::atomic<const T*> held_{nullptr};  // the matrices that huge pages were asked for
  int heads_ = 0, inner_ = 0, layers_ = 0;
  float epsilon_ = 0.0f;
};

absl::Status EncoderShapes(tf::shape_inference::InferenceContext* context) {
  const auto dimension = [context](int input, int place) {
    return context->RankKnown(context->input(input)) ? context->Dim(context->input(input), place) : context->UnknownDim();
  };
  const auto read = dimension(4, 1);
  auto readers = context->UnknownDim();
  if (context->ValueKnown(read)) readers = context->Value(read) == 0 ? dimension(0, 1) : read;
  context->set_output(0, context->MakeShape({dimension(0, 0), readers, dimension(5, 1)}));
  return absl::OkStatus();
}

// `vectors` are the embeddings' gamma and beta and then each layer's, `matrices` each layer's in panels (panels.h), in the order of
// `Weight`, one after the other.
REGISTER_OP("BertEncoder")
    .Attr("T: {float, bfloat16}")
    .Attr("layers: int >= 1")
    .Attr("heads: int >= 1")
    .Attr("inner: int >= 1")
    .Attr("epsilon: float")
    .Input("input_ids: int32")
    .Input("token_type_ids: int32")
    .Input("position_ids: int32")
    .Input("segment_ids: int32")
    .Input("read_positions: int32")
    .Input("words: float")
    .Input("positions: float")
    .Input("types: float")
    .Input("vectors: float")
    .Input("matrices: T")
    .Output("output: float")
    .SetShapeFn(EncoderShapes);

// Each export brings this library along, and a process may load several: the first one's kernels serve all.
const bool kIsRegistered = [] {
  if (tf::GetRegisteredKernelsForOp("BertEncoder").kernel_size() > 0) return true;
  if (const char* missing = MissingInstructions()) {
    std::fprintf(stderr, "BertInputs and BertEncoder were compiled for a processor with %s, which this one lacks: export on this one\n",
                 missing);
    return false;
  }
  REGISTER_KERNEL_BUILDER(Name("BertInputs").Device(tf::DEVICE_CPU), InputsKernel);
  REGISTER_KERNEL_BUILDER(Name("BertEncoder").Device(tf::DEVICE_CPU).TypeConstraint<float>("T"), EncoderKernel<float>);
  REGISTER_KERNEL_BUILDER(Name("BertEncoder").Device(tf::DEVICE_CPU).TypeConstraint<tf::bfloat16>("T"), EncoderKernel<BFloat16>);
  return true;
}();

}  // namespace
}  // namespace trainer
