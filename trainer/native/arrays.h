// What a layer of BERT reads and writes.
//
// The letters: B rows, L tokens in a row, P of them that the head reads (all L, but in the last layer), H hidden size,
// N heads, D = H / N, F intermediate size. "Cells" are the B * L tokens, "readers" the B * P.

#pragma once

#include <cstdint>

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

inline bool IsMatrix(int weight) {
  return weight == kQuery || weight == kKey || weight == kValue || weight == kOutput || weight == kInner || weight == kOuter;
}

// The rows of a matrix, and the columns of a matrix or the size of a vector.
inline long RowsOf(int weight, long hidden, long inner) { return weight == kOuter ? inner : hidden; }
inline long ColumnsOf(int weight, long hidden, long inner) { return weight == kInner || weight == kInnerBias ? inner : hidden; }

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

}  // namespace trainer
