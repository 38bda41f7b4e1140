// Transposing float matrices: squares in registers, the rest number by number.

#pragma once

#include <utility>

#include "numbers.h"

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define TRAINER_HAS_SHUFFLES
#endif
#endif

namespace trainer {

#if defined(TRAINER_HAS_SHUFFLES)
constexpr bool kHasShuffles = true;

// Exchanges the blocks of `size` lanes that lie off the diagonal of two vectors.
template <int size, int... lanes>
inline void ExchangeBlocks(Vector* low, Vector* high, std::integer_sequence<int, lanes...>) {
  const Vector a = *low, b = *high;
  *low = __builtin_shufflevector(a, b, (lanes & size ? kLanes + lanes - size : lanes)...);
  *high = __builtin_shufflevector(a, b, (lanes & size ? kLanes + lanes : lanes + size)...);
}

// Turns kLanes rows of kLanes numbers into columns, halving the blocks that change places.
template <int size = kLanes / 2>
inline void TransposeSquare(Vector* square) {
  if constexpr (size > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (!(i & size)) ExchangeBlocks<size>(square + i, square + i + size, std::make_integer_sequence<int, kLanes>{});
    }
    TransposeSquare<size / 2>(square);
  }
}

inline void CopySquareTransposed(const float* from, long from_stride, float* to, long to_stride) {
  Vector square[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) square[i] = LoadVector(from + i * from_stride);
  TransposeSquare(square);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) StoreVector(square[i], to + i * to_stride);
}
#else
constexpr bool kHasShuffles = false;
inline void CopySquareTransposed(const float*, long, float*, long) {}
#endif

// to[j * to_stride + i] = from[i * from_stride + j] for all of [rows, columns], which fit into the cache.
inline void CopyTransposed(long rows, long columns, const float* from, long from_stride, float* to, long to_stride) {
  const long whole_rows = kHasShuffles ? rows / kLanes * kLanes : 0;
  const long whole_columns = kHasShuffles ? columns / kLanes * kLanes : 0;
  for (long i = 0; i < whole_rows; i += kLanes) {
    for (long j = 0; j < whole_columns; j += kLanes) {
      CopySquareTransposed(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
    }
  }
  for (long i = 0; i < rows; ++i) {
    for (long j = i < whole_rows ? whole_columns : 0; j < columns; ++j) to[j * to_stride + i] = from[i * from_stride + j];
  }
}

}  // namespace trainer
