// BERT without dropout and without anything kept for gradients: embeddings and all layers, on tokens without padding.
//
// Devlin et al. 2019 (arXiv:1810.04805), section 3, as `trainer/models/kernels/inference.py` computes it. Letters as in arrays.h.

#pragma once

#include <algorithm>
#include <vector>

#include "arrays.h"
#include "attention.h"
#include "buffer.h"
#include "embeddings.h"
#include "numbers.h"
#include "panels.h"
#include "rows.h"

namespace trainer {

constexpr long kTokensAtOnce = 4096;  // are computed, or those of one longer text: memory stays bounded, whatever is asked for

template <typename T>
struct ServedLayer {
  const T* matrices[kWeights];     // in panels, where a weight is a matrix
  const float* vectors[kWeights];  // where it is none
};

// What is asked for: [B, L] tokens, and [B, P] positions of those that are read, null for all.
struct Request {
  long rows, length, readers;
  const int32_t *input_ids, *token_type_ids, *position_ids, *segment_ids, *read_positions;
};

// The tokens of a request without its padding, their segments, and which of them are read. A row without any token, as a server
// pads a batch with, is one segment: that is what TensorFlow's graph computes, where every token attends to every other.
class Tokens {
 public:
  explicit Tokens(const Request& request) {
    std::vector<long> token_of(request.rows * request.length, -1);
    for (long row = 0; row < request.rows; ++row) {
      const int32_t* ids = request.segment_ids + row * request.length;
      const bool is_empty = std::all_of(ids, ids + request.length, [](int32_t id) { return id == 0; });
      int32_t current = 0;
      for (long i = 0; i < request.length; ++i) {
        const int32_t id = is_empty ? 1 : ids[i];
        if (id == 0) continue;
        if (id != current) starts.push_back(static_cast<long>(cells.size()));
        current = id;
        token_of[row * request.length + i] = static_cast<long>(cells.size());
        cells.push_back(row * request.length + i);
      }
    }
    starts.push_back(static_cast<long>(cells.size()));
    slots.assign(cells.size(), {});
    for (long slot = 0; slot < request.rows * request.readers; ++slot) {
      const long position = request.read_positions == nullptr ? slot % request.readers : request.read_positions[slot];
      const long token = token_of[slot / request.readers * request.length + position];
      if (token >= 0) slots[token].push_back(slot);
    }
  }

  std::vector<long> cells;               // of each token
  std::vector<long> starts;              // the first token of each segment, and the number of all
  std::vector<std::vector<long>> slots;  // of the result, that read each token
};

// sums = inputs times a matrix, plus its bias and the residual; then normalized to `output`.
template <typename T>
void MultiplyAndNormalize(long rows, long in, long out, const float* inputs, const T* matrix, const float* bias,
                          const float* residual, float epsilon, const float* gamma, const float* beta, float* output) {
  Buffer<float> sums(rows * out), inverse(rows);
  MultiplyPanels<T>(rows, out, in, inputs, {matrix}, [&](const Tile& tile) {
    tile.ForEach(out, [&](long place, long j, float sum) { sums[place] = sum + bias[j] + residual[place]; });
  });
  Normalize(rows, out, epsilon, gamma, beta, sums.data(), inverse.data(), output);
}

// The two dense layers with their residual connection: float [rows, H] to the same; `output` is another place than `attended`.
template <typename T>
void ServeFeedForward(long rows, long h, long f, float epsilon, const ServedLayer<T>& layer, const float* attended, float* output) {
  const Buffer<float> activated(rows * f);
  const float* bias = layer.vectors[kInnerBias];
  MultiplyPanels<T>(rows, f, h, attended, {layer.matrices[kInner]}, [&](const Tile& tile) {
    tile.ForEach(f, [&](long place, long j, float sum) { activated[place] = GeluOf(sum + bias[j]).value; });
  });
  MultiplyAndNormalize(rows, f, h, activated.data(), layer.matrices[kOuter], layer.vectors[kOuterBias], attended, epsilon,
                       layer.vectors[kOuterGamma], layer.vectors[kOuterBeta], output);
}

// One layer on a row of tokens: hidden float [L, H], of which [P, H] are read (the same where all are), to [P, H].
// `output` may be `hidden`.
template <typename T>
void ServeLayer(const LayerShape& shape, const ServedLayer<T>& layer, const std::vector<Segment>& segments,
                const float* hidden, const float* reading, float* output) {
  const long tokens = shape.length, readers = shape.readers, h = shape.hidden;
  const T* const* matrices = layer.matrices;
  const float* const* vectors = layer.vectors;
  Buffer<float> query(readers * h), key(tokens * h), value(tokens * h), context(readers * h), log_sums(readers * shape.heads);
  float* const projected[] = {query.data(), key.data(), value.data()};
  const float* const biases[] = {vectors[kQueryBias], vectors[kKeyBias], vectors[kValueBias]};
  const auto project = [&](long rows, const float* inputs, long first, const std::vector<const T*>& rights) {
    MultiplyPanels<T>(rows, h, h, inputs, rights, [&](const Tile& tile) {
      float* to = projected[first + tile.product];
      const float* bias = biases[first + tile.product];
      tile.ForEach(h, [&](long place, long j, float sum) { to[place] = sum + bias[j]; });
    });
  };
  if (reading == hidden) {
    project(tokens, hidden, 0, {matrices[kQuery], matrices[kKey], matrices[kValue]});
  } else {
    project(readers, reading, 0, {matrices[kQuery]});
    project(tokens, hidden, 1, {matrices[kKey], matrices[kValue]});
  }
  LayerOutputs<float> attention{};
  attention.query = query.data();
  attention.key = key.data();
  attention.value = value.data();
  attention.log_sums = log_sums.data();
  attention.context = context.data();
  const int32_t no_seed[2] = {};
  Attend(shape, segments, Dropout(0.0f, no_seed), attention);

  const Buffer<float> attended(readers * h);
  MultiplyAndNormalize(readers, h, h, context.data(), matrices[kOutput], vectors[kOutputBias], reading, shape.epsilon,
                       vectors[kOutputGamma], vectors[kOutputBeta], attended.data());
  ServeFeedForward(readers, h, shape.inner, shape.epsilon, layer, attended.data(), output);
}

// The encoder on the segments from `first` up to `end`; what is read of them goes to `out`, float [B, P, H].
template <typename T>
void ServeSegments(LayerShape shape, const Request& request, const Tokens& tokens, long first, long end,
                   const Embeddings& embeddings, const std::vector<ServedLayer<T>>& layers, float* out) {
  const long first_token = tokens.starts[first], h = shape.hidden;
  std::vector<Segment> segments;
  std::vector<long> read;  // tokens of this part
  for (long s = first; s < end; ++s) {
    Segment segment{tokens.starts[s] - first_token, tokens.starts[s + 1] - tokens.starts[s], {}};
    for (long i = 0; i < segment.length; ++i) {
      segment.readers.push_back(segment.first_cell + i);
      if (!tokens.slots[first_token + segment.first_cell + i].empty()) read.push_back(segment.first_cell + i);
    }
    segments.push_back(std::move(segment));
  }
  if (read.empty()) return;
  shape.rows = 1;
  shape.length = shape.readers = tokens.starts[end] - first_token;

  Buffer<float> hidden(shape.length * h);
  {
    Buffer<float> inverse(shape.length);
    ParallelRanges(shape.length, kRowsEach, [&](long begin, long stop) {
      for (long i = begin; i < stop; ++i) {
        const long cell = tokens.cells[first_token + i];
        embeddings.AddUp(h, request.input_ids[cell], request.token_type_ids[cell], request.position_ids[cell],
                         hidden.data() + i * h);
      }
    });
    Normalize(shape.length, h, shape.epsilon, embeddings.gamma, embeddings.beta, hidden.data(), inverse.data(), hidden.data());
  }
  for (size_t layer = 0; layer + 1 < layers.size(); ++layer) {
    ServeLayer(shape, layers[layer], segments, hidden.data(), hidden.data(), hidden.data());
  }
  // The last layer: queries and all that follows only for the tokens that are read.
  Buffer<float> reading, output;
  float *from = hidden.data(), *to = hidden.data();
  if (static_cast<long>(read.size()) < shape.length) {
    shape.readers = static_cast<long>(read.size());
    reading = Buffer<float>(shape.readers * h);
    output = Buffer<float>(shape.readers * h);
    from = reading.data();
    to = output.data();
    for (long i = 0; i < shape.readers; ++i) std::copy_n(hidden.data() + read[i] * h, h, from + i * h);
    long next = 0;
    for (Segment& segment : segments) {
      segment.readers.clear();
      for (; next < shape.readers && read[next] < segment.first_cell + segment.length; ++next) segment.readers.push_back(next);
    }
  }
  ServeLayer(shape, layers.back(), segments, hidden.data(), from, to);
  for (long i = 0; i < shape.readers; ++i) {
    for (const long slot : tokens.slots[first_token + read[i]]) std::copy_n(to + i * h, h, out + slot * h);
  }
}

// The encoder on a whole request: float [B, P, H], zeros where a slot reads padding.
template <typename T>
void Serve(const LayerShape& shape, const Request& request, const Embeddings& embeddings,
           const std::vector<ServedLayer<T>>& layers, float* out) {
  std::fill_n(out, request.rows * request.readers * shape.hidden, 0.0f);
  const Tokens tokens(request);
  const long segments = static_cast<long>(tokens.starts.size()) - 1;
  for (long first = 0, end; first < segments; first = end) {
    for (end = first + 1; end < segments && tokens.starts[end + 1] - tokens.starts[first] <= kTokensAtOnce;) ++end;
    ServeSegments(shape, request, tokens, first, end, embeddings, layers, out);
  }
}

}  // namespace trainer
