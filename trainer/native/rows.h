// What is done to rows and columns between the products: LayerNorm and its gradients, sums over all tokens.

#pragma once

#include <algorithm>
#include <cmath>

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

}  // namespace trainer
