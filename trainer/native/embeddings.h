// BERT's embeddings of tokens without padding: the sum of three rows, LayerNorm, dropout; and backward.
//
// Devlin et al. 2019 (arXiv:1810.04805), section 3, as `trainer/models/kernels/xla.py` computes them.

#pragma once

#include <algorithm>

#include "buffer.h"
#include "numbers.h"
#include "parallel.h"
#include "rows.h"

namespace trainer {

// What is embedded: ids of words, types and positions, [tokens] each.
struct EmbeddedIds {
  long tokens;
  const int32_t *words, *types, *positions;
};

// Tables that rows are added up of, and the LayerNorm behind them.
struct Embeddings {
  const float *words, *types, *positions;  // [rows, width] each
  const float *gamma, *beta;

  // sum = the rows of a token.
  void AddUp(long width, long word_id, long type_id, long position_id, float* sum) const {
    const float *word = words + word_id * width, *type = types + type_id * width, *position = positions + position_id * width;
    for (long j = 0; j < width; ++j) sum[j] = word[j] + type[j] + position[j];
  }
};

// output = dropout(normalized * gamma + beta), [tokens, width]; `normalized` and `inverse` as of `Normalize`.
template <typename T>
void Embed(const EmbeddedIds& ids, long width, float epsilon, const Embeddings& embeddings, const Dropout& dropout,
           float* normalized, float* inverse, T* output) {
  ParallelRanges(ids.tokens, kRowsEach, [&](long begin, long end) {
    for (long i = begin; i < end; ++i) {
      embeddings.AddUp(width, ids.words[i], ids.types[i], ids.positions[i], normalized + i * width);
    }
  });
  Normalize(ids.tokens, width, epsilon, embeddings.gamma, embeddings.beta, normalized, inverse, output);
  if (!dropout.drops()) return;
  ParallelRanges(ids.tokens, kRowsEach, [&](long begin, long end) {
    const Buffer<float> factors(width);
    for (long i = begin; i < end; ++i) {
      dropout.Factors(static_cast<uint32_t>(i * width), width, factors.data());
      T* to = output + i * width;
      for (long j = 0; j < width; ++j) trainer::Store(Load(to[j]) * factors[j], to + j);
    }
  });
}

// to[ids[i]] += numbers[i] for each of `count` rows, in their order; all else of `to`, [rows, width], is 0.
inline void AddRows(long count, long rows, long width, const int32_t* ids, const float* numbers, float* to) {
  std::fill_n(to, rows * width, 0.0f);
  ParallelRanges(width, kLanes, [&](long begin, long end) {
    for (long i = 0; i < count; ++i) {
      float* row = to + ids[i] * width;
      for (long j = begin; j < end; ++j) row[j] += numbers[i * width + j];
    }
  });
}

// What EmbedBackward finds: the gradient of each token's sum, [tokens, width], which is its word's; those of gamma and beta.
struct EmbeddingGradients {
  float *of_sum, *gamma, *beta;
};

template <typename T>
void EmbedBackward(long tokens, long width, const T* upstream, const float* gamma, const float* normalized,
                   const float* inverse, const Dropout& dropout, const EmbeddingGradients& out) {
  SumOverRows(tokens, width, {out.gamma, out.beta}, [&](long begin, long end, float* sums) {
    const Buffer<float> factors(width);
    float *of_gamma = sums, *of_beta = sums + width;
    for (long i = begin; i < end; ++i) {
      dropout.Factors(static_cast<uint32_t>(i * width), width, factors.data());
      const T* from = upstream + i * width;
      const float* row = normalized + i * width;
      float* to = out.of_sum + i * width;
#pragma GCC ivdep
      for (long j = 0; j < width; ++j) {
        const float value = Load(from[j]) * factors[j];
        of_beta[j] += value;
        of_gamma[j] += value * row[j];
        to[j] = value * gamma[j];
      }
      BackThroughNormalization(width, row, inverse[i], to);
    }
  });
}

}  // namespace trainer
