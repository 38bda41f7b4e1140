// A decoder of BERT on one token of each beam, without dropout: what it needs of earlier tokens is in a cache.
//
// Vaswani et al. 2017 (arXiv:1706.03762), section 3.2, as `trainer/models/decoder.py` computes it. E examples, B beams of each,
// N places of a target, S tokens of a source, V tokens of the vocabulary; the other letters as in arrays.h.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "inference.h"

namespace trainer {

struct DecoderShape {
  long examples, beams, places, sources, hidden, heads, inner;  // E, B, N, S, H, heads, F
  float epsilon;

  long rows() const { return examples * beams; }
  long cache_size() const { return examples * places * beams * hidden; }  // of a layer's keys, or values
  long memory_size() const { return examples * sources * hidden; }
};

// Of a layer's attention to the source: matrices in panels. Keys and values are computed once, in `DecoderStep::memory`.
struct CrossAttention {
  const float *query, *query_bias, *output, *output_bias, *gamma, *beta;
};

struct DecoderLayer {
  ServedLayer<float> own;
  CrossAttention cross;
};

// What one step reads and writes. A beam never moves in the cache: `ancestors` tells in which slots its own past is.
struct DecoderStep {
  long place;
  const int32_t *ids, *ancestors, *source_lengths;  // [E, B], [E, B, N], [E]
  const bool* is_open;                              // [E]: only these are computed
  const float* memory;                              // [layers, 2, E, S, H], keys and values of the sources
  float* cache;                                     // [layers, 2, E, N, B, H]
};

// The rows of [E, B] that are computed.
inline std::vector<long> OpenRows(long examples, long beams, const bool* is_open) {
  std::vector<long> rows;
  for (long row = 0; row < examples * beams; ++row) {
    if (is_open[row / beams]) rows.push_back(row);
  }
  return rows;
}

// The attention of one query to tokens whose keys and values lie at `keys` and `values`: all float [H].
inline void AttendOne(long heads, long width, const float* query, const std::vector<const float*>& keys,
                      const std::vector<const float*>& values, float* weights, float* context) {
  const long tokens = static_cast<long>(keys.size());
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  for (long head = 0; head < heads; ++head) {
    const long first = head * width;
    float highest = -std::numeric_limits<float>::infinity();
    for (long i = 0; i < tokens; ++i) {
      const float *left = query + first, *right = keys[i] + first;
      weights[i] = SumOf(width, [&](long j) { return left[j] * right[j]; }) * scale;
      highest = std::max(highest, weights[i]);
    }
    float sum = 0.0f;
    for (long i = 0; i < tokens; ++i) sum += weights[i] = Exp(weights[i] - highest);
    float* to = context + first;
    std::fill_n(to, width, 0.0f);
    for (long i = 0; i < tokens; ++i) {
      const float weight = weights[i] / sum, *from = values[i] + first;
#pragma GCC ivdep
      for (long j = 0; j < width; ++j) to[j] += weight * from[j];
    }
  }
}

// The attention of all rows: `tokens_of(row, keys, values)` lists the tokens that a row of [E, B] reads.
template <typename TokensOf>
void AttendRows(const DecoderShape& shape, const std::vector<long>& rows, const float* queries, const TokensOf& tokens_of,
                float* context) {
  constexpr long kRowsEachTime = 4;
  const long h = shape.hidden;
  ParallelRanges(static_cast<long>(rows.size()), kRowsEachTime, [&](long begin, long end) {
    std::vector<const float*> keys, values;
    for (long i = begin; i < end; ++i) {
      keys.clear();
      values.clear();
      tokens_of(rows[i], &keys, &values);
      const Buffer<float> weights(static_cast<long>(keys.size()));
      AttendOne(shape.heads, h / shape.heads, queries + i * h, keys, values, weights.data(), context + i * h);
    }
  });
}

// outputs[p] = inputs times matrices[p] plus biases[p], all [rows, H].
inline void ProjectRows(long rows, long h, const float* inputs, const std::vector<const float*>& matrices,
                        const std::vector<const float*>& biases, const std::vector<float*>& outputs) {
  MultiplyPanels<float>(rows, h, h, inputs, matrices, [&](const Tile& tile) {
    const float* bias = biases[tile.product];
    float* to = outputs[tile.product];
    tile.ForEach(h, [&](long place, long j, float sum) { to[place] = sum + bias[j]; });
  });
}

// The attention of a layer to the beams' own past, which gets this step's keys and values first: `hidden` to `attended`.
inline void AttendOwn(const DecoderShape& shape, const DecoderStep& step, long number, const ServedLayer<float>& layer,
                      const std::vector<long>& rows, const float* hidden, float* attended) {
  const long count = static_cast<long>(rows.size()), h = shape.hidden, beams = shape.beams;
  const Buffer<float> query(count * h), key(count * h), value(count * h), context(count * h);
  ProjectRows(count, h, hidden, {layer.matrices[kQuery], layer.matrices[kKey], layer.matrices[kValue]},
              {layer.vectors[kQueryBias], layer.vectors[kKeyBias], layer.vectors[kValueBias]},
              {query.data(), key.data(), value.data()});
  float* const keys_of = step.cache + 2 * number * shape.cache_size();
  float* const values_of = keys_of + shape.cache_size();
  const auto slot = [&](long example, long place, long beam) { return ((example * shape.places + place) * beams + beam) * h; };
  for (long i = 0; i < count; ++i) {
    const long at = slot(rows[i] / beams, step.place, rows[i] % beams);
    std::copy_n(key.data() + i * h, h, keys_of + at);
    std::copy_n(value.data() + i * h, h, values_of + at);
  }
  AttendRows(shape, rows, query.data(), [&](long row, auto* keys, auto* values) {
    const int32_t* slots = step.ancestors + row * shape.places;
    for (long place = 0; place <= step.place; ++place) {
      const long at = slot(row / beams, place, slots[place]);
      keys->push_back(keys_of + at);
      values->push_back(values_of + at);
    }
  }, context.data());
  MultiplyAndNormalize(count, h, h, context.data(), layer.matrices[kOutput], layer.vectors[kOutputBias], hidden, shape.epsilon,
                       layer.vectors[kOutputGamma], layer.vectors[kOutputBeta], attended);
}

// The attention of a layer to the sources: `hidden` to `attended`.
inline void AttendSources(const DecoderShape& shape, const DecoderStep& step, long number, const CrossAttention& cross,
                          const std::vector<long>& rows, const float* hidden, float* attended) {
  const long count = static_cast<long>(rows.size()), h = shape.hidden;
  const Buffer<float> query(count * h), context(count * h);
  ProjectRows(count, h, hidden, {cross.query}, {cross.query_bias}, {query.data()});
  const float* const keys_of = step.memory + 2 * number * shape.memory_size();
  const float* const values_of = keys_of + shape.memory_size();
  AttendRows(shape, rows, query.data(), [&](long row, auto* keys, auto* values) {
    const long example = row / shape.beams;
    for (long i = 0; i < step.source_lengths[example]; ++i) {
      keys->push_back(keys_of + (example * shape.sources + i) * h);
      values->push_back(values_of + (example * shape.sources + i) * h);
    }
  }, context.data());
  MultiplyAndNormalize(count, h, h, context.data(), cross.output, cross.output_bias, hidden, shape.epsilon, cross.gamma,
                       cross.beta, attended);
}

// One token of each open beam through all layers: float [E, B, H] to `out`, zeros where an example is not open.
inline void Decode(const DecoderShape& shape, const DecoderStep& step, const Embeddings& embeddings,
                   const std::vector<DecoderLayer>& layers, float* out) {
  const std::vector<long> rows = OpenRows(shape.examples, shape.beams, step.is_open);
  const long count = static_cast<long>(rows.size()), h = shape.hidden;
  std::fill_n(out, shape.rows() * h, 0.0f);
  if (rows.empty()) return;
  const Buffer<float> hidden(count * h), attended(count * h), inverse(count);
  for (long i = 0; i < count; ++i) {
    embeddings.AddUp(h, step.ids[rows[i]], 0, static_cast<int32_t>(step.place), hidden.data() + i * h);
  }
  Normalize(count, h, shape.epsilon, embeddings.gamma, embeddings.beta, hidden.data(), inverse.data(), hidden.data());
  for (size_t number = 0; number < layers.size(); ++number) {
    const DecoderLayer& layer = layers[number];
    AttendOwn(shape, step, static_cast<long>(number), layer.own, rows, hidden.data(), attended.data());
    AttendSources(shape, step, static_cast<long>(number), layer.cross, rows, attended.data(), hidden.data());
    ServeFeedForward(count, h, shape.inner, shape.epsilon, layer.own, hidden.data(), attended.data());
    std::copy_n(attended.data(), count * h, hidden.data());
  }
  for (long i = 0; i < count; ++i) std::copy_n(hidden.data() + i * h, h, out + rows[i] * h);
}

// The `count` highest of some numbers, the first of equal ones first, and where they are.
inline void HighestFew(long size, const float* numbers, long count, float* values, int32_t* places) {
  std::fill_n(values, count, -std::numeric_limits<float>::infinity());
  std::fill_n(places, count, 0);
  const auto insert = [&](float value, long place) {
    long at = count - 1;
    for (; at > 0 && values[at - 1] < value; --at) {
      values[at] = values[at - 1];
      places[at] = places[at - 1];
    }
    values[at] = value;
    places[at] = static_cast<int32_t>(place);
  };
  constexpr long kBlock = 8 * kLanes;
  long j = 0;
  for (; j + kBlock <= size; j += kBlock) {
    if (HighestOf(kBlock, numbers + j) <= values[count - 1]) continue;  // most blocks
    for (long i = j; i < j + kBlock; ++i) {
      if (numbers[i] > values[count - 1]) insert(numbers[i], i);
    }
  }
  for (; j < size; ++j) {
    if (numbers[j] > values[count - 1]) insert(numbers[j], j);
  }
}

constexpr long kLogitsAtOnce = 1L << 23;  // are held: 32 MB

// The likeliest tokens after each open beam: logits = hidden times the vocabulary's matrix (panels of [H, V]) plus its bias; to
// their `count` highest, float and int32 [E, B, count], and the logarithm of the sum of all their exponentials, float [E, B].
inline void LikeliestTokens(const DecoderShape& shape, const bool* is_open, const float* hidden, const float* vocabulary,
                            const float* bias, long tokens, long count, float* values, int32_t* ids, float* log_totals) {
  std::fill_n(values, shape.rows() * count, 0.0f);
  std::fill_n(ids, shape.rows() * count, 0);
  std::fill_n(log_totals, shape.rows(), 0.0f);
  const std::vector<long> rows = OpenRows(shape.examples, shape.beams, is_open);
  const long all = static_cast<long>(rows.size()), h = shape.hidden, at_once = std::max(1L, kLogitsAtOnce / tokens);
  for (long first = 0; first < all; first += at_once) {
    const long some = std::min(at_once, all - first);
    const Buffer<float> inputs(some * h), logits(some * tokens);
    for (long i = 0; i < some; ++i) std::copy_n(hidden + rows[first + i] * h, h, inputs.data() + i * h);
    MultiplyPanels<float>(some, tokens, h, inputs.data(), {vocabulary}, [&](const Tile& tile) {
      tile.ForEach(tokens, [&](long place, long j, float sum) { logits[place] = sum + bias[j]; });
    });
    ParallelRanges(some, 1, [&](long begin, long end) {
      for (long i = begin; i < end; ++i) {
        const long row = rows[first + i];
        const float* own = logits.data() + i * tokens;
        HighestFew(tokens, own, count, values + row * count, ids + row * count);
        const float highest = values[row * count];
        log_totals[row] = highest + std::log(SumOf(tokens, [&](long j) { return Exp(own[j] - highest); }));
      }
    });
  }
}

}  // namespace trainer
