// What is done to rows and columns between the products: LayerNorm and its gradients, sums over all tokens.

#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "buffer.h"
#include "numbers.h"
#include "parallel.h"

namespace trainer {

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

// Adds up numbers of all rows: calls work(begin, end, sums) for blocks of rows, `sums` float [out.size(), width] for it to add to.
// The blocks depend only on the number of rows, and so does the order in which they are added up.
template <typename Work>
void SumOverRows(long rows, long width, const std::vector<float*>& out, const Work& work) {
  const long each = std::max(kRowsEach, rows / 32), blocks = std::max(1L, (rows + each - 1) / each);
  const long size = static_cast<long>(out.size()) * width;
  const Buffer<float> sums(blocks * size);
  Parallel(blocks, [&](long block) {
    float* of_block = sums.data() + block * size;
    std::fill_n(of_block, size, 0.0f);
    work(block * each, std::min(rows, (block + 1) * each), of_block);
  });
  for (size_t i = 0; i < out.size(); ++i) {
    const float* from = sums.data() + static_cast<long>(i) * width;
    std::copy_n(from, width, out[i]);
    for (long block = 1; block < blocks; ++block) {
      for (long j = 0; j < width; ++j) out[i][j] += from[block * size + j];
    }
  }
}

template <typename T>
void SumColumns(long rows, long width, const T* numbers, float* out) {
  SumOverRows(rows, width, {out}, [&](long begin, long end, float* sums) {
    for (long i = begin; i < end; ++i) {
      for (long j = 0; j < width; ++j) sums[j] += Load(numbers[i * width + j]);
    }
  });
}

// What NormalizeBackward finds: the gradients of the sum that was normalized, and of what was dropped and added to it, both
// [rows, width]; those of gamma, beta and the bias of what was dropped, [width].
template <typename T>
struct NormalizeGradients {
  float* of_sum;
  T* of_dropped;
  float *gamma, *beta, *bias;
};

// Backward through a row's normalization, in place: from the gradient of what it gave to that of what was normalized.
inline void BackThroughNormalization(long width, const float* normalized, float inverse, float* gradient) {
  const float size = static_cast<float>(width);
  const float sum = SumOf(width, [&](long j) { return gradient[j]; }) / size;
  const float product = SumOf(width, [&](long j) { return gradient[j] * normalized[j]; }) / size;
  for (long j = 0; j < width; ++j) gradient[j] = (gradient[j] - sum - normalized[j] * product) * inverse;
}

// Backward through LayerNorm and the dropout before it.
template <typename T, typename U>
void NormalizeBackward(long rows, long width, const U* upstream, const float* gamma, const float* normalized,
                       const float* inverse, const Dropout& dropout, const NormalizeGradients<T>& out) {
  SumOverRows(rows, width, {out.gamma, out.beta, out.bias}, [&](long begin, long end, float* sums) {
    const Buffer<float> factors(width);
    float *of_gamma = sums, *of_beta = sums + width, *of_bias = sums + 2 * width;
    for (long i = begin; i < end; ++i) {
      const U* from = upstream + i * width;
      const float* row = normalized + i * width;
      float* to = out.of_sum + i * width;
#pragma GCC ivdep
      for (long j = 0; j < width; ++j) {
        const float value = Load(from[j]);
        of_beta[j] += value;
        of_gamma[j] += value * row[j];
        to[j] = value * gamma[j];
      }
      BackThroughNormalization(width, row, inverse[i], to);
      dropout.Factors(static_cast<uint32_t>(i * width), width, factors.data());
      T* dropped = out.of_dropped + i * width;
#pragma GCC ivdep
      for (long j = 0; j < width; ++j) {
        trainer::Store(to[j] * factors[j], dropped + j);
        of_bias[j] += Load(dropped[j]);
      }
    }
  });
}

}  // namespace trainer
