// One layer of BERT on packed rows, forward and backward: attention inside each segment, dropout, residuals, LayerNorm, GELU.
//
// The letters: B rows, L tokens in a row, P of them that the head reads (all L, but in the last layer), H hidden size,
// N heads, D = H / N, F intermediate size. "Cells" are the B * L tokens, "readers" the B * P.
// Devlin et al. 2019 (arXiv:1810.04805), section 3, as `trainer/models/forward.py` computes it.

#pragma once

#include <cmath>
#include <vector>

#include "buffer.h"
#include "numbers.h"
#include "parallel.h"
#include "product.h"

namespace trainer {

struct LayerShape {
  long rows, length, readers, hidden, heads, inner;  // B, L, P, H, N, F
  float epsilon, attention_rate, hidden_rate;

  long all_cells() const { return rows * length; }
  long all_readers() const { return rows * readers; }
  long width() const { return hidden / heads; }
};

// In the order of TFBertLayer's own weights.
enum Weight {
  kQuery, kQueryBias, kKey, kKeyBias, kValue, kValueBias, kOutput, kOutputBias, kOutputGamma, kOutputBeta,
  kInner, kInnerBias, kOuter, kOuterBias, kOuterGamma, kOuterBeta, kWeights
};

// What a layer reads. `read_positions` is null where all tokens are read; seeds are those of attention's and both hidden dropouts.
template <typename T>
struct LayerInputs {
  const T* hidden;                              // [B, L, H]
  const int32_t *segment_ids, *read_positions;  // [B, L], [B, P]
  const int32_t* seeds;                         // [3, 2]
  const float* weights[kWeights];               // matrices [in, out]
};

// What it writes: its output, and what the backward pass needs.
template <typename T>
struct LayerOutputs {
  T* output;                        // [B, P, H]
  T *query, *key, *value;           // [B, P, H], [B, L, H] twice
  float* log_sums;                  // [B, P, N]: logarithms of each softmax' sum of exponentials
  T* context;                       // [B, P, H]
  float *normalized_1, *inverse_1;  // [B, P, H], [B, P]: the first LayerNorm's, before gamma and beta; 1 / deviation
  T* attended;                      // [B, P, H]
  T *activated, *slopes;            // [B, P, F]: GELU's values and derivatives
  float *normalized_2, *inverse_2;  // the second LayerNorm's
};

template <typename T>
struct LayerGradients {
  T* hidden;  // [B, L, H]
  float* weights[kWeights];
};

// Tokens of one segment, side by side in a row, and those among them that are read.
struct Segment {
  long first_cell, length;
  std::vector<long> readers;
};

inline std::vector<Segment> SegmentsOf(const LayerShape& shape, const int32_t* segment_ids, const int32_t* read_positions) {
  std::vector<Segment> segments;
  for (long row = 0; row < shape.rows; ++row) {
    const int32_t* ids = segment_ids + row * shape.length;
    for (long begin = 0, end; begin < shape.length; begin = end) {
      for (end = begin + 1; end < shape.length && ids[end] == ids[begin];) ++end;
      if (ids[begin] == 0) continue;  // padding: nobody reads it
      Segment segment{row * shape.length + begin, end - begin, {}};
      if (read_positions == nullptr) {
        for (long i = begin; i < end; ++i) segment.readers.push_back(row * shape.length + i);
      } else {
        for (long p = 0; p < shape.readers; ++p) {
          const long position = read_positions[row * shape.readers + p];
          if (begin <= position && position < end) segment.readers.push_back(row * shape.readers + p);
        }
      }
      segments.push_back(std::move(segment));
    }
  }
  return segments;
}

// --- Attention: a segment and a head at a time, on one thread -----------------------------------------------------------------

// What forward and backward compute alike: the segment's queries, keys, values of a head, and its attention weights.
template <typename T>
class HeadAttention {
 public:
  HeadAttention(const LayerShape& shape, const Segment& segment, long head, const T* query, const T* key, const T* value)
      : shape_(shape),
        segment_(segment),
        head_(head),
        readers_(static_cast<long>(segment.readers.size())),
        tokens_(segment.length),
        wide_tokens_(RoundUp(tokens_)),
        wide_(RoundUp(shape.width())),
        memory_(wide_ * (2 * readers_ + 2 * tokens_ + 2 * wide_tokens_) + 4 * readers_ * wide_tokens_) {
    float* free = memory_.data();
    const auto take = [&free](long count) { return std::exchange(free, free + count); };
    queries = take(readers_ * wide_);
    upstream = take(readers_ * wide_);
    keys = take(tokens_ * wide_);
    values = take(tokens_ * wide_);
    keys_turned = take(wide_ * wide_tokens_);
    values_turned = take(wide_ * wide_tokens_);
    weights = take(readers_ * wide_tokens_);
    dropped = take(readers_ * wide_tokens_);
    scratch = take(readers_ * wide_tokens_);
    factors = take(readers_ * wide_tokens_);
    for (long i = 0; i < readers_; ++i) Read(query, segment_.readers[i], queries + i * wide_);
    for (long j = 0; j < tokens_; ++j) Read(key, segment_.first_cell + j, keys + j * wide_);
    for (long j = 0; j < tokens_; ++j) Read(value, segment_.first_cell + j, values + j * wide_);
    Turn(keys, keys_turned);
  }

  // scores = queries times keys, scaled: float [readers, tokens], rows of `wide_tokens`.
  void Score() {
    MultiplyHere(readers_, tokens_, shape_.width(), queries, wide_, 1, keys_turned, wide_tokens_, weights, wide_tokens_);
    const float scale = 1.0f / std::sqrt(static_cast<float>(shape_.width()));
    for (long i = 0; i < readers_ * wide_tokens_; ++i) weights[i] *= scale;
  }

  // Softmax of the scores in `weights`; returns nothing, notes the logarithms of the sums.
  void Softmax(float* log_sums) {
    for (long i = 0; i < readers_; ++i) {
      float* row = weights + i * wide_tokens_;
      const float highest = MostOf(tokens_, [&](long j) { return row[j]; });
      for (long j = 0; j < tokens_; ++j) row[j] = Exp(row[j] - highest);
      const float sum = SumOf(tokens_, [&](long j) { return row[j]; }), inverse = 1.0f / sum;
      for (long j = 0; j < tokens_; ++j) row[j] *= inverse;
      log_sums[segment_.readers[i] * shape_.heads + head_] = highest + std::log(sum);
    }
  }

  // The same weights, from the logarithms that were noted.
  void SoftmaxAgain(const float* log_sums) {
    for (long i = 0; i < readers_; ++i) {
      float* row = weights + i * wide_tokens_;
      const float log_sum = log_sums[segment_.readers[i] * shape_.heads + head_];
      for (long j = 0; j < tokens_; ++j) row[j] = Exp(row[j] - log_sum);
    }
  }

  // Dropout's factor of each weight: float [readers, tokens], rows of `wide_tokens`.
  void DrawFactors(const Dropout& dropout) {
    for (long i = 0; i < readers_; ++i) {
      const long reader = segment_.readers[i], row = reader / shape_.readers, place = reader % shape_.readers;
      const long number = ((row * shape_.heads + head_) * shape_.readers + place) * shape_.length;
      const uint32_t first = static_cast<uint32_t>(number + segment_.first_cell % shape_.length);
      dropout.Factors(first, tokens_, factors + i * wide_tokens_);
    }
  }

  // out = numbers times factors; what lies beyond a row's tokens is never read.
  void Drop(const float* numbers, float* out) const {
    for (long i = 0; i < readers_ * wide_tokens_; ++i) out[i] = numbers[i] * factors[i];
  }

  void Read(const T* matrix, long row, float* to) const {
    const T* from = matrix + row * shape_.hidden + head_ * shape_.width();
    for (long d = 0; d < shape_.width(); ++d) to[d] = Load(from[d]);
    for (long d = shape_.width(); d < wide_; ++d) to[d] = 0.0f;
  }

  void Write(const float* from, T* matrix, long row) const {
    T* to = matrix + row * shape_.hidden + head_ * shape_.width();
    for (long d = 0; d < shape_.width(); ++d) trainer::Store(from[d], to + d);
  }

  void Turn(const float* numbers, float* turned) const {  // [tokens, wide] to [wide, wide_tokens]
    for (long d = 0; d < wide_; ++d) {
      for (long j = 0; j < tokens_; ++j) turned[d * wide_tokens_ + j] = numbers[j * wide_ + d];
      for (long j = tokens_; j < wide_tokens_; ++j) turned[d * wide_tokens_ + j] = 0.0f;
    }
  }

  long readers() const { return readers_; }
  long tokens() const { return tokens_; }
  long wide_tokens() const { return wide_tokens_; }
  long wide() const { return wide_; }

  float *queries, *upstream, *keys, *values, *keys_turned, *values_turned, *weights, *dropped, *scratch, *factors;

 private:
  static long RoundUp(long size) { return (size + kLanes - 1) / kLanes * kLanes; }

  const LayerShape& shape_;
  const Segment& segment_;
  long head_, readers_, tokens_, wide_tokens_, wide_;
  Buffer<float> memory_;
};

template <typename T>
void Attend(const LayerShape& shape, const std::vector<Segment>& segments, const Dropout& dropout, const LayerOutputs<T>& out) {
  std::fill_n(out.context, shape.all_readers() * shape.hidden, T{});
  std::fill_n(out.log_sums, shape.all_readers() * shape.heads, 0.0f);
  Parallel(static_cast<long>(segments.size()) * shape.heads, [&](long task) {
    const Segment& segment = segments[task / shape.heads];
    if (segment.readers.empty()) return;
    HeadAttention<T> head(shape, segment, task % shape.heads, out.query, out.key, out.value);
    head.Score();
    head.Softmax(out.log_sums);
    head.DrawFactors(dropout);
    head.Drop(head.weights, head.weights);
    float* context = head.upstream;
    MultiplyHere(head.readers(), shape.width(), head.tokens(), head.weights, head.wide_tokens(), 1, head.values, head.wide(),
                 context, head.wide());
    for (long i = 0; i < head.readers(); ++i) head.Write(context + i * head.wide(), out.context, segment.readers[i]);
  });
}

// From the gradient of the context, float [B, P, H], to those of queries, keys and values.
template <typename T>
void AttendBackward(const LayerShape& shape, const std::vector<Segment>& segments, const Dropout& dropout,
                    const LayerOutputs<T>& saved, const float* context_gradient, T* query, T* key, T* value) {
  std::fill_n(query, shape.all_readers() * shape.hidden, T{});
  std::fill_n(key, shape.all_cells() * shape.hidden, T{});
  std::fill_n(value, shape.all_cells() * shape.hidden, T{});
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.width()));
  Parallel(static_cast<long>(segments.size()) * shape.heads, [&](long task) {
    const Segment& segment = segments[task / shape.heads];
    if (segment.readers.empty()) return;
    const long index = task % shape.heads;
    HeadAttention<T> head(shape, segment, index, saved.query, saved.key, saved.value);
    const long readers = head.readers(), tokens = head.tokens(), wide = head.wide(), wide_tokens = head.wide_tokens();
    for (long i = 0; i < readers; ++i) {
      const float* from = context_gradient + segment.readers[i] * shape.hidden + index * shape.width();
      for (long d = 0; d < wide; ++d) head.upstream[i * wide + d] = d < shape.width() ? from[d] : 0.0f;
    }
    head.Score();
    head.SoftmaxAgain(saved.log_sums);
    head.DrawFactors(dropout);
    head.Drop(head.weights, head.dropped);
    // Each product reuses the memory of what is not needed any more.
    float* value_gradient = head.values_turned;  // [tokens, wide] fits into [wide, wide_tokens]
    MultiplyHere(tokens, shape.width(), readers, head.dropped, 1, wide_tokens, head.upstream, wide, value_gradient, wide);
    for (long j = 0; j < tokens; ++j) head.Write(value_gradient + j * wide, value, segment.first_cell + j);
    head.Turn(head.values, head.values_turned);
    float* scores = head.scratch;
    MultiplyHere(readers, tokens, shape.width(), head.upstream, wide, 1, head.values_turned, wide_tokens, scores, wide_tokens);
    head.Drop(scores, scores);
    for (long i = 0; i < readers; ++i) {
      float* row = scores + i * wide_tokens;
      const float* weights = head.weights + i * wide_tokens;
      const float sum = SumOf(tokens, [&](long j) { return row[j] * weights[j]; });
      for (long j = 0; j < tokens; ++j) row[j] = (row[j] - sum) * weights[j] * scale;
    }
    float* query_gradient = head.upstream;
    MultiplyHere(readers, shape.width(), tokens, scores, wide_tokens, 1, head.keys, wide, query_gradient, wide);
    for (long i = 0; i < readers; ++i) head.Write(query_gradient + i * wide, query, segment.readers[i]);
    float* key_gradient = head.keys_turned;
    MultiplyHere(tokens, shape.width(), readers, scores, 1, wide_tokens, head.queries, wide, key_gradient, wide);
    for (long j = 0; j < tokens; ++j) head.Write(key_gradient + j * wide, key, segment.first_cell + j);
  });
}

// --- Rows and columns ---------------------------------------------------------------------------------------------------------

constexpr long kRowsEach = 16;  // of a thread at the least

// Normalizes each row in place and notes the inverse deviations; output = normalized * gamma + beta.
template <typename T>
void Normalize(long rows, long width, float epsilon, const float* gamma, const float* beta, float* numbers, float* inverse,
               T* output) {
  const float size = static_cast<float>(width);
  ParallelRanges(rows, kRowsEach, [&](long begin, long end) {
    for (long i = begin; i < end; ++i) {
      float* row = numbers + i * width;
      const float mean = SumOf(width, [&](long j) { return row[j]; }) / size;
      const float variance = SumOf(width, [&](long j) { return (row[j] - mean) * (row[j] - mean); }) / size;
      const float factor = inverse[i] = 1.0f / std::sqrt(variance + epsilon);
      T* to = output + i * width;
      for (long j = 0; j < width; ++j) row[j] = (row[j] - mean) * factor;
      for (long j = 0; j < width; ++j) trainer::Store(row[j] * gamma[j] + beta[j], to + j);
    }
  });
}

// Backward through LayerNorm and the dropout before it: the gradient of the sum, and of what was dropped and added to it.
template <typename T, typename U>
void NormalizeBackward(long rows, long width, const U* upstream, const float* gamma, const float* normalized,
                       const float* inverse, const Dropout& dropout, float* of_sum, T* of_dropped) {
  const float size = static_cast<float>(width);
  ParallelRanges(rows, kRowsEach, [&](long begin, long end) {
    Buffer<float> factors(width);
    for (long i = begin; i < end; ++i) {
      const U* from = upstream + i * width;
      const float* row = normalized + i * width;
      float* to = of_sum + i * width;
      for (long j = 0; j < width; ++j) to[j] = Load(from[j]) * gamma[j];
      const float sum = SumOf(width, [&](long j) { return to[j]; }) / size;
      const float product = SumOf(width, [&](long j) { return to[j] * row[j]; }) / size;
      const float factor = inverse[i];
      for (long j = 0; j < width; ++j) to[j] = (to[j] - sum - row[j] * product) * factor;
      dropout.Factors(static_cast<uint32_t>(i * width), width, factors.data());
      T* dropped = of_dropped + i * width;
      for (long j = 0; j < width; ++j) trainer::Store(to[j] * factors[j], dropped + j);
    }
  });
}

// Calls work(begin, end) for blocks of columns, each on one thread.
template <typename Work>
void ByColumns(long width, const Work& work) {
  constexpr long kBlock = 64;
  Parallel((width + kBlock - 1) / kBlock, [&](long block) { work(block * kBlock, std::min(width, (block + 1) * kBlock)); });
}

template <typename T>
void SumColumns(long rows, long width, const T* numbers, float* out) {
  ByColumns(width, [&](long begin, long end) {
    std::fill(out + begin, out + end, 0.0f);
    for (long i = 0; i < rows; ++i) {
      for (long j = begin; j < end; ++j) out[j] += Load(numbers[i * width + j]);
    }
  });
}

// The gradients of LayerNorm's gamma and beta.
template <typename U>
void SumNormGradients(long rows, long width, const U* upstream, const float* normalized, float* gamma, float* beta) {
  ByColumns(width, [&](long begin, long end) {
    std::fill(gamma + begin, gamma + end, 0.0f);
    std::fill(beta + begin, beta + end, 0.0f);
    for (long i = 0; i < rows; ++i) {
      for (long j = begin; j < end; ++j) {
        const float value = Load(upstream[i * width + j]);
        beta[j] += value;
        gamma[j] += value * normalized[i * width + j];
      }
    }
  });
}

// --- The layer ----------------------------------------------------------------------------------------------------------------

// out = inputs times kernel, plus the bias: [rows, in] to [rows, out].
template <typename T>
void Project(long rows, long in, long out, const T* inputs, const float* kernel, const float* bias, T* to) {
  Multiply(rows, out, in, RowMajor(inputs, in), RowMajor(kernel, out), [&](const Tile& tile) {
    tile.ForEach(out, [&](long place, long j, float sum) { trainer::Store(sum + bias[j], to + place); });
  });
}

// sums = dropout(inputs times kernel, plus the bias) + residual: float [rows, out].
template <typename T>
void ProjectAndAdd(long rows, long in, long out, const T* inputs, const float* kernel, const float* bias,
                   const Dropout& dropout, const T* residual, float* sums) {
  Multiply(rows, out, in, RowMajor(inputs, in), RowMajor(kernel, out), [&](const Tile& tile) {
    tile.ForEachDropped(out, dropout, [&](long place, long j, float sum, float factor) {
      sums[place] = (sum + bias[j]) * factor + Load(residual[place]);
    });
  });
}

// gradient = inputs transposed times upstream: [rows, in] and [rows, out] to float [in, out].
// The narrower of the two is the left operand, for that is copied as a whole.
template <typename T>
void KernelGradient(long rows, long in, long out, const T* inputs, const T* upstream, float* gradient) {
  if (in <= out) {
    Multiply(in, out, rows, RowMajor(inputs, in).Transposed(), RowMajor(upstream, out), [&](const Tile& tile) {
      tile.ForEach(out, [&](long place, long, float sum) { gradient[place] = sum; });
    });
  } else {
    Multiply(out, in, rows, RowMajor(upstream, out).Transposed(), RowMajor(inputs, in), [&](const Tile& tile) {
      for (long j = 0; j < tile.columns; ++j) {
        float* to = gradient + (tile.column + j) * out + tile.row;
        for (long i = 0; i < tile.rows; ++i) to[i] = tile.sums[i * kPanel + j];
      }
    });
  }
}

// Calls work(place, j, sum) for each element of upstream times kernel transposed: [rows, out] and float [in, out] to [rows, in].
template <typename T, typename Work>
void InputGradient(long rows, long in, long out, const T* upstream, const float* kernel, const Work& work) {
  Multiply(rows, in, out, RowMajor(upstream, out), RowMajor(kernel, out).Transposed(),
           [&](const Tile& tile) { tile.ForEach(in, work); });
}

// The hidden states of the tokens that are read: themselves, or copied to `copy`.
template <typename T>
const T* ReadersOf(const LayerShape& shape, const LayerInputs<T>& in, Buffer<T>* copy) {
  if (in.read_positions == nullptr) return in.hidden;
  *copy = Buffer<T>(shape.all_readers() * shape.hidden);
  for (long reader = 0; reader < shape.all_readers(); ++reader) {
    const long cell = reader / shape.readers * shape.length + in.read_positions[reader];
    std::copy_n(in.hidden + cell * shape.hidden, shape.hidden, copy->data() + reader * shape.hidden);
  }
  return copy->data();
}

template <typename T>
void LayerForward(const LayerShape& shape, const LayerInputs<T>& in, const LayerOutputs<T>& out) {
  const long cells = shape.all_cells(), readers = shape.all_readers(), hidden = shape.hidden, inner = shape.inner;
  const float* const* w = in.weights;
  Buffer<T> copy;
  const T* reading = ReadersOf(shape, in, &copy);
  Project(readers, hidden, hidden, reading, w[kQuery], w[kQueryBias], out.query);
  Project(cells, hidden, hidden, in.hidden, w[kKey], w[kKeyBias], out.key);
  Project(cells, hidden, hidden, in.hidden, w[kValue], w[kValueBias], out.value);
  const auto segments = SegmentsOf(shape, in.segment_ids, in.read_positions);
  Attend(shape, segments, Dropout(shape.attention_rate, in.seeds), out);

  ProjectAndAdd(readers, hidden, hidden, out.context, w[kOutput], w[kOutputBias], Dropout(shape.hidden_rate, in.seeds + 2),
                reading, out.normalized_1);
  Normalize(readers, hidden, shape.epsilon, w[kOutputGamma], w[kOutputBeta], out.normalized_1, out.inverse_1, out.attended);

  const float* bias = w[kInnerBias];
  Multiply(readers, inner, hidden, RowMajor<T>(out.attended, hidden), RowMajor(w[kInner], inner),
           [&](const Tile& tile) {
             tile.ForEach(inner, [&](long place, long j, float sum) {
               const Gelu gelu = GeluOf(sum + bias[j]);
               trainer::Store(gelu.value, out.activated + place);
               trainer::Store(gelu.derivative, out.slopes + place);
             });
           });
  ProjectAndAdd<T>(readers, inner, hidden, out.activated, w[kOuter], w[kOuterBias],
                   Dropout(shape.hidden_rate, in.seeds + 4), out.attended, out.normalized_2);
  Normalize(readers, hidden, shape.epsilon, w[kOuterGamma], w[kOuterBeta], out.normalized_2, out.inverse_2, out.output);
}

template <typename T>
void LayerBackward(const LayerShape& shape, const LayerInputs<T>& in, const LayerOutputs<T>& saved, const T* upstream,
                   const LayerGradients<T>& out) {
  const long cells = shape.all_cells(), readers = shape.all_readers(), hidden = shape.hidden, inner = shape.inner;
  const float* const* w = in.weights;
  float* const* of = out.weights;

  // The feed-forward half, from its end.
  Buffer<float> of_sum_2(readers * hidden), of_attended(readers * hidden);
  Buffer<T> of_outer(readers * hidden), of_inner(readers * inner);
  NormalizeBackward(readers, hidden, upstream, w[kOuterGamma], saved.normalized_2, saved.inverse_2,
                    Dropout(shape.hidden_rate, in.seeds + 4), of_sum_2.data(), of_outer.data());
  SumNormGradients(readers, hidden, upstream, saved.normalized_2, of[kOuterGamma], of[kOuterBeta]);
  SumColumns(readers, hidden, of_outer.data(), of[kOuterBias]);
  InputGradient(readers, inner, hidden, of_outer.data(), w[kOuter], [&](long place, long, float sum) {
    trainer::Store(sum * Load(saved.slopes[place]), of_inner.data() + place);
  });
  KernelGradient<T>(readers, inner, hidden, saved.activated, of_outer.data(), of[kOuter]);
  SumColumns(readers, inner, of_inner.data(), of[kInnerBias]);
  KernelGradient<T>(readers, hidden, inner, saved.attended, of_inner.data(), of[kInner]);
  InputGradient(readers, hidden, inner, of_inner.data(), w[kInner], [&](long place, long, float sum) {
    of_attended[place] = sum + of_sum_2[place];
  });

  // Attention's half.
  Buffer<float> of_sum_1(readers * hidden), of_context(readers * hidden);
  Buffer<T> of_projected(readers * hidden), of_query(readers * hidden), of_key(cells * hidden), of_value(cells * hidden);
  NormalizeBackward(readers, hidden, of_attended.data(), w[kOutputGamma], saved.normalized_1, saved.inverse_1,
                    Dropout(shape.hidden_rate, in.seeds + 2), of_sum_1.data(), of_projected.data());
  SumNormGradients(readers, hidden, of_attended.data(), saved.normalized_1, of[kOutputGamma], of[kOutputBeta]);
  SumColumns(readers, hidden, of_projected.data(), of[kOutputBias]);
  KernelGradient<T>(readers, hidden, hidden, saved.context, of_projected.data(), of[kOutput]);
  InputGradient(readers, hidden, hidden, of_projected.data(), w[kOutput],
                [&](long place, long, float sum) { of_context[place] = sum; });
  const auto segments = SegmentsOf(shape, in.segment_ids, in.read_positions);
  AttendBackward(shape, segments, Dropout(shape.attention_rate, in.seeds), saved, of_context.data(), of_query.data(),
                 of_key.data(), of_value.data());

  Buffer<T> copy;
  const T* reading = ReadersOf(shape, in, &copy);
  KernelGradient(readers, hidden, hidden, reading, of_query.data(), of[kQuery]);
  KernelGradient<T>(cells, hidden, hidden, in.hidden, of_key.data(), of[kKey]);
  KernelGradient<T>(cells, hidden, hidden, in.hidden, of_value.data(), of[kValue]);
  SumColumns(readers, hidden, of_query.data(), of[kQueryBias]);
  SumColumns(cells, hidden, of_key.data(), of[kKeyBias]);
  SumColumns(cells, hidden, of_value.data(), of[kValueBias]);

  Buffer<float> of_hidden(cells * hidden);
  InputGradient(cells, hidden, hidden, of_key.data(), w[kKey],
                [&](long place, long, float sum) { of_hidden[place] = sum; });
  InputGradient(cells, hidden, hidden, of_value.data(), w[kValue],
                [&](long place, long, float sum) { of_hidden[place] += sum; });
  InputGradient(readers, hidden, hidden, of_query.data(), w[kQuery],
                [&](long place, long, float sum) { of_sum_1[place] += sum; });
  ByColumns(hidden, [&](long begin, long end) {  // a token may be read twice: all readers of a column on one thread
    for (long reader = 0; reader < readers; ++reader) {
      const long cell = in.read_positions ? reader / shape.readers * shape.length + in.read_positions[reader] : reader;
      for (long j = begin; j < end; ++j) of_hidden[cell * hidden + j] += of_sum_1[reader * hidden + j];
    }
    for (long cell = 0; cell < cells; ++cell) {
      for (long j = begin; j < end; ++j) trainer::Store(of_hidden[cell * hidden + j], out.hidden + cell * hidden + j);
    }
  });
}

}  // namespace trainer
