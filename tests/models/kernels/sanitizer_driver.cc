// Every computation of trainer/native without TensorFlow, for the sanitizers. Standard input has one case a line, its sizes in
// words; each case runs twice, and the two results must have the same bits.
//
//     layer    TYPE rows length readers hidden heads inner      (readers 0: all tokens are read)
//     embed    TYPE tokens width words
//     adamw    rows width listed                                (listed 0: a dense gradient)
//     encode   TYPE rows length readers hidden heads inner layers
//     decode   examples beams places sources hidden heads inner layers tokens count
//     tokenize texts bytes
//     pool     parts

#include <sys/mman.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "adamw.h"
#include "decoder.h"
#include "embeddings.h"
#include "inference.h"
#include "layer.h"
#include "wordpiece.h"

namespace trainer {
namespace {

// Exactly as many bytes as are needed, so that a read behind the end is found; aligned as TensorFlow's tensors are.
template <typename T>
class Exact {
 public:
  explicit Exact(long count) : count_(count) {
    if (posix_memalign(reinterpret_cast<void**>(&data_), 64, std::max(1L, count) * sizeof(T)) != 0) throw std::bad_alloc();
  }
  Exact(Exact&& other) noexcept : count_(other.count_), data_(other.data_) { other.data_ = nullptr; }
  ~Exact() { std::free(data_); }
  T* data() const { return data_; }
  long count() const { return count_; }

 private:
  long count_;
  T* data_ = nullptr;
};

// Owns the memory of one case. What it computes is gathered in `result`.
class Case {
 public:
  explicit Case(unsigned seed) : generator_(seed) {}

  template <typename T>
  T* Random(long count) {
    T* numbers = Uninitialized<T>(count);
    std::normal_distribution<float> normal(0.0f, 0.1f);
    for (long i = 0; i < count; ++i) Store(normal(generator_), numbers + i);
    return numbers;
  }
  template <typename T>
  T* Uninitialized(long count) {
    held_.emplace_back(count * sizeof(T));
    T* numbers = reinterpret_cast<T*>(held_.back().data());
    std::memset(static_cast<void*>(numbers), 0, count * sizeof(T));
    return numbers;
  }
  int32_t* Integers(long count, long limit) {
    int32_t* numbers = Uninitialized<int32_t>(count);
    for (long i = 0; i < count; ++i) numbers[i] = static_cast<int32_t>(generator_() % limit);
    return numbers;
  }
  // Segments as packing makes them: 1, 1, 2, 2, 2, ..., padding 0 at the end; some rows are all padding.
  int32_t* Segments(long rows, long length) {
    int32_t* ids = Uninitialized<int32_t>(rows * length);
    for (long row = 0; row < rows; ++row) {
      const long used = static_cast<long>(generator_() % (length + 1));
      int32_t current = 1;
      for (long i = 0; i < used; ++i) {
        ids[row * length + i] = current;
        if (generator_() % 4 == 0) ++current;
      }
    }
    return ids;
  }
  template <typename T>
  void Give(const T* numbers, long count) {
    for (long i = 0; i < count; ++i) {
      if (!std::isfinite(Load(numbers[i]))) throw std::runtime_error("a result is not finite");
    }
    result.append(reinterpret_cast<const char*>(numbers), count * sizeof(T));
  }

  std::string result;

 private:
  std::mt19937 generator_;
  std::vector<Exact<char>> held_;
};

LayerShape ShapeOf(std::istream& words) {
  LayerShape shape{};
  words >> shape.rows >> shape.length >> shape.readers >> shape.hidden >> shape.heads >> shape.inner;
  shape.epsilon = 1e-12f;
  return shape;
}

template <typename T>
void RunLayer(std::istream& words, Case* c) {
  LayerShape shape = ShapeOf(words);
  const int32_t* read = nullptr;
  if (shape.readers > 0) read = c->Integers(shape.rows * shape.readers, shape.length);
  if (read == nullptr) shape.readers = shape.length;
  shape.attention_rate = shape.hidden_rate = 0.1f;
  const long cells = shape.all_cells(), p = shape.all_readers(), h = shape.hidden, f = shape.inner;
  LayerInputs<T> in{c->Random<T>(cells * h), c->Segments(shape.rows, shape.length), read, c->Integers(6, 1 << 30), {}};
  LayerGradients<T> gradients{c->Uninitialized<T>(cells * h), {}};
  std::vector<long> sizes;
  for (int i = 0; i < kWeights; ++i) {
    sizes.push_back(ColumnsOf(i, h, f) * (IsMatrix(i) ? RowsOf(i, h, f) : 1));
    in.weights[i] = c->Random<float>(sizes[i]);
    gradients.weights[i] = c->Uninitialized<float>(sizes[i]);
  }
  const auto of = [&](long count) { return c->Uninitialized<T>(count); };
  const auto floats = [&](long count) { return c->Uninitialized<float>(count); };
  const LayerOutputs<T> out{of(p * h),     of(p * h), of(cells * h), of(cells * h), floats(p * shape.heads), of(p * h),
                            floats(p * h), floats(p), of(p * h),     of(p * f),     of(p * f),               floats(p * h),
                            floats(p)};
  LayerForward(shape, in, out);
  LayerBackward(shape, in, out, c->Random<T>(p * h), gradients);
  c->Give(out.output, p * h);
  c->Give(gradients.hidden, cells * h);
  for (int i = 0; i < kWeights; ++i) c->Give(gradients.weights[i], sizes[i]);
}

template <typename T>
void RunEmbed(std::istream& words, Case* c) {
  long tokens = 0, width = 0, vocabulary = 0;
  words >> tokens >> width >> vocabulary;
  const int32_t* ids = c->Integers(tokens, vocabulary);
  const Embeddings tables{c->Random<float>(vocabulary * width), c->Random<float>(2 * width), c->Random<float>(8 * width),
                          c->Random<float>(width), c->Random<float>(width)};
  const Dropout dropout(0.1f, c->Integers(2, 1 << 30));
  float *normalized = c->Uninitialized<float>(tokens * width), *inverse = c->Uninitialized<float>(tokens);
  T* output = c->Uninitialized<T>(tokens * width);
  Embed({tokens, ids, c->Integers(tokens, 2), c->Integers(tokens, 8)}, width, 1e-12f, tables, dropout, normalized, inverse,
        output);
  const EmbeddingGradients gradients{c->Uninitialized<float>(tokens * width), c->Uninitialized<float>(width),
                                     c->Uninitialized<float>(width)};
  EmbedBackward(tokens, width, c->Random<T>(tokens * width), tables.gamma, normalized, inverse, dropout, gradients);
  float* of_words = c->Uninitialized<float>(vocabulary * width);
  AddRows(tokens, vocabulary, width, ids, gradients.of_sum, of_words);
  c->Give(output, tokens * width);
  c->Give(of_words, vocabulary * width);
  c->Give(gradients.gamma, width);
  c->Give(gradients.beta, width);
}

void RunAdamW(std::istream& words, Case* c) {
  long rows = 0, width = 0, listed = 0;
  words >> rows >> width >> listed;
  int32_t* listed_rows = nullptr;
  if (listed > 0) {
    listed = std::min(listed, rows);
    listed_rows = c->Uninitialized<int32_t>(listed);
    for (long i = 0; i < listed; ++i) listed_rows[i] = static_cast<int32_t>(rows - 1 - i);
  }
  const long count = rows * width, given = (listed_rows != nullptr ? listed : rows) * width;
  const Updated matrix{c->Random<float>(count), c->Uninitialized<float>(count), c->Uninitialized<float>(count), nullptr,
                       c->Random<float>(given), listed_rows, rows, width, listed, 0.01f, 1e-3f};
  const Updated vector{c->Random<float>(width), c->Uninitialized<float>(width), c->Uninitialized<float>(width),
                       c->Random<float>(width), c->Random<float>(width), nullptr, 1, width, 0, 0.0f, 1e-3f};
  UpdateAdamW({matrix, vector}, {0.9f, 0.999f, 1.0f, 1e-6f, 0.1f, 1.0f});
  c->Give(matrix.weights, count);
  c->Give(vector.weights, width);
  c->Give(vector.average, width);
}

// Weights are stored in panels with zeros beyond the last column; here they are random but there.
template <typename T>
ServedLayer<T> RandomLayer(long hidden, long inner, Case* c) {
  ServedLayer<T> layer;
  for (int i = 0; i < kWeights; ++i) {
    const long columns = ColumnsOf(i, hidden, inner);
    if (IsMatrix(i)) {
      layer.matrices[i] = c->Random<T>(PanelSize(RowsOf(i, hidden, inner), columns));
    } else {
      layer.vectors[i] = c->Random<float>(columns);
    }
  }
  return layer;
}

// All places of a target, one after the other; some examples are not open, some sources are empty.
void RunDecode(std::istream& words, Case* c) {
  DecoderShape shape{};
  long layers = 0, tokens = 0, count = 0;
  words >> shape.examples >> shape.beams >> shape.places >> shape.sources >> shape.hidden >> shape.heads >> shape.inner;
  words >> layers >> tokens >> count;
  shape.epsilon = 1e-12f;
  const long h = shape.hidden, rows = shape.rows();
  std::vector<DecoderLayer> stack(layers);
  for (DecoderLayer& layer : stack) {
    layer.own = RandomLayer<float>(h, shape.inner, c);
    layer.cross = {c->Random<float>(PanelSize(h, h)), c->Random<float>(h), c->Random<float>(PanelSize(h, h)),
                   c->Random<float>(h), c->Random<float>(h), c->Random<float>(h)};
  }
  const Embeddings tables{c->Random<float>(tokens * h), c->Random<float>(2 * h), c->Random<float>(shape.places * h),
                          c->Random<float>(h), c->Random<float>(h)};
  bool* is_open = c->Uninitialized<bool>(shape.examples);
  for (long i = 0; i < shape.examples; ++i) is_open[i] = c->Integers(1, 4)[0] > 0;
  const float *vocabulary = c->Random<float>(PanelSize(h, tokens)), *bias = c->Random<float>(tokens);
  const float* memory = c->Random<float>(2 * layers * shape.memory_size());
  float* cache = c->Uninitialized<float>(2 * layers * shape.cache_size());
  const int32_t* lengths = c->Integers(shape.examples, shape.sources + 1);
  float *out = c->Uninitialized<float>(rows * h), *values = c->Uninitialized<float>(rows * count);
  float* log_totals = c->Uninitialized<float>(rows);
  int32_t* ids = c->Uninitialized<int32_t>(rows * count);
  for (long place = 0; place < shape.places; ++place) {
    const DecoderStep step{place, c->Integers(rows, tokens), c->Integers(rows * shape.places, shape.beams), lengths, is_open,
                           memory, cache};
    Decode(shape, step, tables, stack, out);
    LikeliestTokens(shape, is_open, out, vocabulary, bias, tokens, count, values, ids, log_totals);
    c->Give(out, rows * h);
    c->Give(values, rows * count);
    c->Give(log_totals, rows);
  }
}

template <typename T>
void RunEncode(std::istream& words, Case* c) {
  LayerShape shape = ShapeOf(words);
  long layers = 0;
  words >> layers;
  const int32_t* read = nullptr;
  if (shape.readers > 0) read = c->Integers(shape.rows * shape.readers, shape.length);
  if (read == nullptr) shape.readers = shape.length;
  const long h = shape.hidden, f = shape.inner, cells = shape.all_cells();
  std::vector<ServedLayer<T>> served(layers);
  for (ServedLayer<T>& layer : served) layer = RandomLayer<T>(h, f, c);
  const Embeddings tables{c->Random<float>(50 * h), c->Random<float>(2 * h), c->Random<float>(shape.length * h),
                          c->Random<float>(h), c->Random<float>(h)};
  const Request request{shape.rows, shape.length, shape.readers, c->Integers(cells, 50), c->Integers(cells, 2),
                        c->Integers(cells, shape.length), c->Segments(shape.rows, shape.length), read};
  float* out = c->Uninitialized<float>(shape.all_readers() * h);
  Serve(shape, request, tables, served, out);
  c->Give(out, shape.all_readers() * h);
}

// Random bytes: mostly no valid UTF-8.
void RunTokenize(std::istream& words, Case* c) {
  long texts = 0, bytes = 0;
  words >> texts >> bytes;
  constexpr long kBlocks = kSpecial / 256;
  int32_t *all_of_page_0 = c->Uninitialized<int32_t>(kBlocks), *mixed = c->Integers(kBlocks, 2);
  int32_t *kinds = c->Integers(2 * 256, 3), *replaced = c->Integers(2 * 256, 3), *ranks = c->Integers(2 * 256, 3);
  int32_t* starts = c->Uninitialized<int32_t>(3);  // the first replacement is "ab", the second nothing
  starts[1] = starts[2] = 2;
  int32_t* values = c->Uninitialized<int32_t>(2);
  values[0] = 'a';
  values[1] = 'b';
  const std::vector<std::string> pieces{"[PAD]", "[UNK]", "[MASK]", "a", "##b", "", "##\xC3\xA9", "ab"};
  const WordPiece word_piece(std::vector<std::string_view>(pieces.begin(), pieces.end()), "##", 1, {{"[MASK]", 2}, {"a\xFF", 3}});
  for (const bool reorders : {false, true}) {
    CharacterTables tables{{mixed, replaced}, values, starts, {mixed, kinds}, reorders, {}, {}};
    if (reorders) {
      tables.starters = {all_of_page_0, ranks};
      tables.mark_order = {mixed, ranks};
    }
    for (long i = 0; i < texts; ++i) {
      const int32_t* noise = c->Integers(bytes, i % 2 ? 256 : 128);
      char* text = c->Uninitialized<char>(bytes);
      for (long j = 0; j < bytes; ++j) text[j] = static_cast<char>(noise[j]);
      for (const size_t limit : {size_t{3}, SIZE_MAX}) {
        std::vector<int32_t> ids = word_piece.Ids(tables, std::string_view(text, bytes), limit), other = ids;
        CutPair(&ids, &other, 7);
        const PackedTexts packed = PackInOrder({ids, other, {}}, 4);
        for (const int32_t id : ids) c->result += std::to_string(id) + ' ';
        c->result += std::to_string(packed.rows) + ';';
      }
    }
  }
}

// Parts that begin parts, and parts that throw: both end as errors or results, not as a lock or the end of the process.
void RunPool(std::istream& words, Case* c) {
  long parts = 0;
  words >> parts;
  std::vector<long> sums(parts);
  Parallel(parts, [&](long i) {
    std::vector<long> inner(i + 1);
    Parallel(i + 1, [&](long j) { inner[j] = j; });
    for (const long one : inner) sums[i] += one;
  });
  for (const long sum : sums) c->result += std::to_string(sum) + ' ';
  bool caught = false;
  try {
    Parallel(parts, [&](long i) {
      if (i == parts - 1) throw std::bad_alloc();
    });
  } catch (const std::bad_alloc&) {
    caught = true;
  }
  if (!caught) throw std::runtime_error("an exception was lost");
  try {
    Buffer<float> too_large(1L << 60);
    throw std::runtime_error("memory for 2^60 numbers was found");
  } catch (const std::bad_alloc&) {
  }
}

std::string ResultOf(const std::string& line, unsigned seed) {
  std::istringstream words(line);
  std::string name, type;
  words >> name;
  Case c(seed);
  if (name == "layer" || name == "embed" || name == "encode") {
    words >> type;
    const bool half = type == "bfloat16";
    if (name == "layer") half ? RunLayer<BFloat16>(words, &c) : RunLayer<float>(words, &c);
    if (name == "embed") half ? RunEmbed<BFloat16>(words, &c) : RunEmbed<float>(words, &c);
    if (name == "encode") half ? RunEncode<BFloat16>(words, &c) : RunEncode<float>(words, &c);
  } else if (name == "adamw") {
    RunAdamW(words, &c);
  } else if (name == "decode") {
    RunDecode(words, &c);
  } else if (name == "tokenize") {
    RunTokenize(words, &c);
  } else if (name == "pool") {
    RunPool(words, &c);
  } else {
    throw std::runtime_error("no case of that name");
  }
  if (words.fail()) throw std::runtime_error("a size is missing");
  return c.result;
}

}  // namespace
}  // namespace trainer

int main() {
  unsigned seed = 0;
  for (std::string line; std::getline(std::cin, line); ++seed) {
    try {
      if (trainer::ResultOf(line, seed) != trainer::ResultOf(line, seed)) throw std::runtime_error("two runs differ");
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s: %s\n", line.c_str(), error.what());
      return 1;
    }
  }
  std::printf("%u cases\n", seed);
  return 0;
}
