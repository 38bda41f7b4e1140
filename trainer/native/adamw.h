// AdamW over all weights in one pass, with the gradients' clipping inside (Loshchilov and Hutter 2019, algorithm 2).

#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "numbers.h"
#include "parallel.h"

namespace trainer {

// One variable with its state, and its gradient: [rows, width] dense, or of the rows that are listed (each once).
struct Updated {
  float *weights, *first, *second, *average;  // no average: null
  const float* gradient;
  const int32_t* listed_rows;  // null: the gradient is dense
  long rows, width, listed;
  float decay_rate, learning_rate;

  long gradient_size() const { return (listed_rows ? listed : rows) * width; }
};

struct AdamWRates {
  float beta_1, beta_2;
  float correction, epsilon;  // m * correction / (sqrt(v) + epsilon) is the step: both hold the bias corrections
  float average_rate;         // of the averages' way to the weights
  float max_gradient_norm;    // 0: gradients are not clipped
};

constexpr long kPart = 1 << 15;  // numbers of a thread's part

// Parts of all variables, each of whole rows.
struct Part {
  const Updated* updated;
  long begin, end;  // of rows, or of numbers
};

inline double SumOfSquares(const std::vector<Updated>& all) {
  std::vector<Part> parts;
  for (const Updated& updated : all) {
    for (long begin = 0; begin < updated.gradient_size(); begin += kPart) {
      parts.push_back({&updated, begin, std::min(begin + kPart, updated.gradient_size())});
    }
  }
  std::vector<double> sums(parts.size());
  Parallel(static_cast<long>(parts.size()), [&](long i) {
    const float* numbers = parts[i].updated->gradient + parts[i].begin;
    sums[i] = SumOf(parts[i].end - parts[i].begin, [&](long j) { return numbers[j] * numbers[j]; });
  });
  double sum = 0.0;
  for (const double part : sums) sum += part;  // always in the same order
  return sum;
}

// Updates `count` numbers from `place` on; `gradient` null: it is 0.
inline void UpdateNumbers(const Updated& to, const AdamWRates& rates, float factor, long place, long count,
                          const float* gradient) {
  float *weights = to.weights + place, *first = to.first + place, *second = to.second + place;
  const float beta_1 = rates.beta_1, beta_2 = rates.beta_2, correction = rates.correction, epsilon = rates.epsilon;
  const float decay_rate = to.decay_rate, learning_rate = to.learning_rate;
  const auto update = [&](auto gradient_at) {
#pragma GCC ivdep
    for (long i = 0; i < count; ++i) {
      const float g = gradient_at(i);
      const float m = beta_1 * first[i] + (1.0f - beta_1) * g, v = beta_2 * second[i] + (1.0f - beta_2) * g * g;
      first[i] = m;
      second[i] = v;
      weights[i] -= learning_rate * (m / (std::sqrt(v) + epsilon) * correction + decay_rate * weights[i]);
    }
  };
  if (gradient != nullptr) {
    update([gradient, factor](long i) { return gradient[i] * factor; });
  } else {
    update([](long) { return 0.0f; });
  }
  if (to.average != nullptr) {
    float* average = to.average + place;
    for (long i = 0; i < count; ++i) average[i] += (weights[i] - average[i]) * rates.average_rate;
  }
}

inline bool AllZero(long count, const float* numbers) {
  uint32_t bits = 0;
  for (long i = 0; i < count; ++i) bits |= ToBits(numbers[i]);
  return bits == 0;
}

// Updates a row without a gradient. Where it never had one, as that of a word no text has used yet, its moments are 0 and stay
// so: only the decay is left, and two thirds of what an update writes are not touched.
inline void UpdateUnused(const Updated& to, const AdamWRates& rates, long place, long count) {
  if (to.average != nullptr || !AllZero(count, to.second + place) || !AllZero(count, to.first + place)) {
    UpdateNumbers(to, rates, 1.0f, place, count, nullptr);
    return;
  }
  float* weights = to.weights + place;
  const float decay_rate = to.decay_rate, learning_rate = to.learning_rate;
  for (long i = 0; i < count; ++i) weights[i] -= learning_rate * (decay_rate * weights[i]);
}

inline void UpdateAdamW(const std::vector<Updated>& all, const AdamWRates& rates) {
  float factor = 1.0f;
  if (rates.max_gradient_norm > 0.0f) {
    const double norm = std::sqrt(SumOfSquares(all)), most = rates.max_gradient_norm;
    factor = static_cast<float>(norm > most || norm != norm ? most / norm : 1.0);  // a NaN goes through, to be told of
  }
  std::vector<Part> parts;
  std::vector<std::vector<const float*>> gradients_of_rows(all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    const Updated& updated = all[i];
    if (updated.listed_rows != nullptr) {
      gradients_of_rows[i].assign(static_cast<size_t>(updated.rows), nullptr);
      for (long j = 0; j < updated.listed; ++j) gradients_of_rows[i][updated.listed_rows[j]] = updated.gradient + j * updated.width;
    }
    const long each = std::max(1L, kPart / updated.width);
    for (long begin = 0; begin < updated.rows; begin += each) {
      parts.push_back({&updated, begin, std::min(begin + each, updated.rows)});
    }
  }
  Parallel(static_cast<long>(parts.size()), [&](long i) {
    const Part& part = parts[i];
    const Updated& updated = *part.updated;
    const long width = updated.width;
    if (updated.listed_rows == nullptr) {
      UpdateNumbers(updated, rates, factor, part.begin * width, (part.end - part.begin) * width,
                    updated.gradient + part.begin * width);
      return;
    }
    const auto& gradients = gradients_of_rows[&updated - all.data()];
    for (long row = part.begin; row < part.end; ++row) {
      if (gradients[row] != nullptr) {
        UpdateNumbers(updated, rates, factor, row * width, width, gradients[row]);
      } else {
        UpdateUnused(updated, rates, row * width, width);
      }
    }
  });
}

}  // namespace trainer
