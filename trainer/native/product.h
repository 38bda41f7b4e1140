// Matrix products on all cores, with a function of the caller's applied to each tile of the result while it is in the cache.
//
// The right operand is copied, a panel of kPanel columns at a time, into the order in which it is read; the left one is read
// where it lies. A tile of 6 rows and kPanel columns stays in registers while the inner dimension runs through.

#pragma once

#include <cstddef>
#include <cstring>
#include <unistd.h>

#include <type_traits>
#include <vector>

#include "buffer.h"
#include "numbers.h"
#include "parallel.h"
#include "transpose.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace trainer {

// A tile is kept in registers: 6 rows of 4 vectors in 24 of 32, or of 2 in 12 of 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kVectors = 4;
#else
constexpr int kVectors = 2;
#endif
constexpr long kPanel = kVectors * kLanes, kTileRows = 6;

// What a product's inner loop multiplies: a float, or where the processor can, a pair of bfloat16 along the inner dimension.
// A word is multiplied in kSteps, of whose numbers one is taken at a time.
struct FloatWord {
  using Element = float;
  static constexpr long kElements = 1;
  static constexpr int kSteps = 1;
  typedef float Word, Left, Right;
  static Vector Spread(const Left* word, int) { return *word - Vector{}; }
  static Vector Columns(const Right* words, int) { return LoadVector(words); }
  static Vector Add(Vector sum, Vector left, Vector right) { return sum + left * right; }
};

#if defined(__AVX512BF16__)
struct BFloat16Word {
  using Element = BFloat16;
  static constexpr long kElements = 2;
  static constexpr int kSteps = 1;
  typedef BFloat16Pair Word, Left, Right;
  static Vector Spread(const Left* word, int) {
    return reinterpret_cast<Vector>(_mm512_set1_epi32(static_cast<int>(LoadPair(word))));
  }
  static Vector Columns(const Right* words, int) { return LoadVector(words); }
  static Vector Add(Vector sum, Vector left, Vector right) {
    return reinterpret_cast<Vector>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(left),
                                                     reinterpret_cast<__m512bh>(right)));
  }
};
#endif

// A matrix as it lies in memory: element (i, j) is data[i * row_stride + j * column_stride].
template <typename T>
struct Matrix {
  const T* data;
  long row_stride, column_stride;

  Matrix<T> Transposed() const { return {data, column_stride, row_stride}; }
  T At(long i, long j) const { return data[i * row_stride + j * column_stride]; }
};

template <typename T>
Matrix<T> RowMajor(const T* data, long columns) {
  return {data, columns, 1};
}

// `rows` (up to 6) rows of the left operand times `vectors` vectors of columns of the right one, added to `out` or put there.
template <typename Op, int rows, int vectors>
inline void MultiplyTile(const typename Op::Left* left, long row_stride, long inner_stride, const typename Op::Right* right,
                         long right_stride, long inner, bool adds, float* out, long out_stride) {
  constexpr int kBases = rows == 6 ? 2 : 1, kEach = rows / kBases;  // an address reaches three rows by its index
  const typename Op::Left* bases[kBases];
#pragma GCC unroll 2
  for (int base = 0; base < kBases; ++base) bases[base] = left + kEach * base * row_stride;
  Vector sums[rows][vectors] = {};
  if (adds) {
#pragma GCC unroll 6
    for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[row][v] = LoadVector(out + row * out_stride + v * kLanes);
    }
  }
#pragma GCC unroll 2
  for (long k = 0; k < inner; ++k) {
#pragma GCC unroll 2
    for (int step = 0; step < Op::kSteps; ++step) {
      Vector columns[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) columns[v] = Op::Columns(right + v * kLanes, step);
#pragma GCC unroll 2
      for (int base = 0; base < kBases; ++base) {
#pragma GCC unroll 5
        for (int i = 0; i < kEach; ++i) {
          const Vector spread = Op::Spread(bases[base] + i * row_stride, step);
#pragma GCC unroll 4
          for (int v = 0; v < vectors; ++v) {
            sums[kEach * base + i][v] = Op::Add(sums[kEach * base + i][v], spread, columns[v]);
          }
        }
      }
    }
    right += right_stride;
#pragma GCC unroll 2
    for (int base = 0; base < kBases; ++base) bases[base] += inner_stride;
  }
#pragma GCC unroll 6
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) StoreVector(sums[row][v], out + row * out_stride + v * kLanes);
  }
}

// As many rows as are left, up to a whole tile; returns how many.
template <typename Op, int vectors>
inline long MultiplyRows(long rows_left, const typename Op::Left* left, long row_stride, long inner_stride,
                         const typename Op::Right* right, long right_stride, long inner, bool adds, float* out,
                         long out_stride) {
  const auto multiply = [&](auto rows) {
    MultiplyTile<Op, rows, vectors>(left, row_stride, inner_stride, right, right_stride, inner, adds, out, out_stride);
    return static_cast<long>(rows);
  };
  switch (rows_left) {
    case 1: return multiply(std::integral_constant<int, 1>());
    case 2: return multiply(std::integral_constant<int, 2>());
    case 3: return multiply(std::integral_constant<int, 3>());
    case 4: return multiply(std::integral_constant<int, 4>());
    case 5: return multiply(std::integral_constant<int, 5>());
    default: return multiply(std::integral_constant<int, 6>());
  }
}

// out = left times right on this thread only, for the small matrices of attention.
// Columns of `right` and `out` are rounded up to whole vectors: both are that wide, `right` filled with any numbers.
inline void MultiplyHere(long rows, long columns, long inner, const float* left, long row_stride, long inner_stride,
                         const float* right, long right_stride, float* out, long out_stride) {
  for (long column = 0; column < columns; column += kPanel) {
    const long vectors = std::min<long>(kVectors, (columns - column + kLanes - 1) / kLanes);
    for (long row = 0; row < rows;) {
      const auto multiply = [&](auto rows_of) {
        return rows_of(rows - row, left + row * row_stride, row_stride, inner_stride, right + column, right_stride, inner, false,
                       out + row * out_stride + column, out_stride);
      };
      row += vectors == 4   ? multiply(MultiplyRows<FloatWord, 4>)
             : vectors == 3 ? multiply(MultiplyRows<FloatWord, 3>)
             : vectors == 2 ? multiply(MultiplyRows<FloatWord, 2>)
                            : multiply(MultiplyRows<FloatWord, 1>);
    }
  }
}

// The word that multiplies elements of a type.
template <typename T>
struct WordOf {
  using Op = FloatWord;
};

// A word of the elements that lie at `from`.
template <typename T>
inline float WordAt(FloatWord, const T* from) {
  return Load(*from);
}

// A word of a column of a matrix; beyond the inner dimension's end there is 0.
template <typename T>
inline float MakeWord(FloatWord, const Matrix<T>& matrix, long word, long column, long) {
  return Load(matrix.At(word, column));
}

#if defined(__AVX512BF16__)
template <>
struct WordOf<BFloat16> {
  using Op = BFloat16Word;
};

inline uint32_t Pair(float first, float second) {
  BFloat16 low, high;
  Store(first, &low);
  Store(second, &high);
  return static_cast<uint32_t>(low.bits) | static_cast<uint32_t>(high.bits) << 16;
}

template <typename T>
inline uint32_t WordAt(BFloat16Word, const T* from) {
  return Pair(Load(from[0]), Load(from[1]));
}

template <typename T>
inline uint32_t MakeWord(BFloat16Word, const Matrix<T>& matrix, long word, long column, long inner) {
  return Pair(Load(matrix.At(2 * word, column)), 2 * word + 1 < inner ? Load(matrix.At(2 * word + 1, column)) : 0.0f);
}
#endif

constexpr long kRowsAhead = 12;

// Asks for `count` elements that are copied some rows later: the processor does not foresee short pieces of long rows.
template <typename T>
inline void Prefetch(const T* from, long count) {
  for (long i = 0; i < count; i += 64 / sizeof(T)) __builtin_prefetch(from + i);
}

// Copies [inner, columns] of a matrix, whose rows or whose columns lie in one piece, as words: row after row of `width`.
template <typename Op, typename T>
inline void CopyWords(const Matrix<T>& matrix, long inner, long first_column, long columns, long width,
                      typename Op::Word* copy) {
  const long words = (inner + Op::kElements - 1) / Op::kElements;
  if (matrix.column_stride == 1) {
    for (long k = 0; k < words; ++k) {
      Prefetch(matrix.data + (k + kRowsAhead) * Op::kElements * matrix.row_stride + first_column, columns);
      for (long j = 0; j < columns; ++j) copy[k * width + j] = MakeWord(Op{}, matrix, k, first_column + j, inner);
    }
    return;
  }
  const long whole_words = inner / Op::kElements / kLanes * kLanes;
  float square[kLanes * kLanes];  // the bits of words
  static_assert(sizeof(typename Op::Word) == sizeof(float), "words are turned as floats are");
  for (long j = 0; j < columns; j += kLanes) {
    const long columns_here = std::min(kLanes, columns - j);
    for (long k = 0; k < whole_words; k += kLanes) {
      for (long i = 0; i < columns_here; ++i) {
        const T* from = matrix.data + (first_column + j + i) * matrix.column_stride + k * Op::kElements;
        typename Op::Word of_column[kLanes];
        for (int word = 0; word < kLanes; ++word) of_column[word] = WordAt(Op{}, from + word * Op::kElements);
        std::memcpy(square + i * kLanes, of_column, sizeof of_column);
      }
      CopyTransposed(columns_here, kLanes, square, kLanes, reinterpret_cast<float*>(copy + k * width + j), width);
    }
  }
  for (long j = 0; j < columns; ++j) {
    for (long k = whole_words; k < words; ++k) copy[k * width + j] = MakeWord(Op{}, matrix, k, first_column + j, inner);
  }
}

constexpr long kBlockRows = 12;  // of a left operand that is copied: the numbers of a tile or two lie side by side
constexpr long kBlocksAtOnce = 8;  // are copied, so that what is read is some cache lines of a row

// The left operand as words: in place where it lies so that they can be read, else copied.
template <typename Op, typename T>
class LeftWords {
 public:
  using Word = typename Op::Word;

  LeftWords(const Matrix<T>& matrix, long rows, long inner) : words_((inner + Op::kElements - 1) / Op::kElements) {
    const long each = Op::kElements;
    if (std::is_same<typename Op::Element, T>::value && matrix.column_stride == 1 && (inner | matrix.row_stride) % each == 0) {
      data_ = reinterpret_cast<const Word*>(matrix.data);
      row_stride_ = matrix.row_stride / each;
      inner_stride_ = 1;
      return;
    }
    const long blocks = (rows + kBlockRows - 1) / kBlockRows;
    copy_ = Buffer<Word>(blocks * words_ * kBlockRows);
    const Matrix<T> columns = matrix.Transposed();
    Parallel((blocks + kBlocksAtOnce - 1) / kBlocksAtOnce, [&](long task) {
      const long begin = task * kBlocksAtOnce, end = std::min(begin + kBlocksAtOnce, blocks);
      for (long word = 0; word < words_; ++word) {
        const T* ahead = columns.data + (word + kRowsAhead) * Op::kElements * columns.row_stride;
        Prefetch(ahead + begin * kBlockRows * columns.column_stride, (end - begin) * kBlockRows);
        for (long block = begin; block < end; ++block) {
          const long first = block * kBlockRows, count = std::min(kBlockRows, rows - first);
          Word* to = copy_.data() + (block * words_ + word) * kBlockRows;
          for (long i = 0; i < count; ++i) to[i] = MakeWord(Op{}, columns, word, first + i, inner);
        }
      }
    });
    data_ = copy_.data();
    row_stride_ = 1;
    inner_stride_ = kBlockRows;
  }

  const Word* Row(long row) const {
    if (row_stride_ != 1) return data_ + row * row_stride_;
    return data_ + row / kBlockRows * kBlockRows * words_ + row % kBlockRows;
  }
  long row_stride() const { return row_stride_; }
  long inner_stride() const { return inner_stride_; }

 private:
  long words_;
  Buffer<Word> copy_;
  const Word* data_ = nullptr;
  long row_stride_ = 0, inner_stride_ = 0;
};

// A tile of a product: `rows` from `row` on, `columns` from `column` on; `product` is its number, where several are computed.
struct Tile {
  long product, row, rows, column, columns;
  const float* sums;

  // Calls work(place, j, sum) for each element, `place` its number in a matrix of `width` columns.
  template <typename Work>
  void ForEach(long width, const Work& work) const {
    for (long i = 0; i < rows; ++i) {
      const float* from = sums + i * kPanel;
      const long first = (row + i) * width + column;
      for (int j = 0; j < static_cast<int>(columns); ++j) work(first + j, column + j, from[j]);
    }
  }

  // Calls work(place, j, sum, factor) for each element, with dropout's factor.
  template <typename Work>
  void ForEachDropped(long width, const Dropout& dropout, const Work& work) const {
    for (long i = 0; i < rows; ++i) {
      const float* from = sums + i * kPanel;
      const long first = (row + i) * width + column;
      float factors[kPanel];
      dropout.Factors(static_cast<uint32_t>(first), columns, factors);
      for (int j = 0; j < static_cast<int>(columns); ++j) work(first + j, column + j, from[j], factors[j]);
    }
  }
};

// Of the left operand's part that a core works on: half of its second cache.
inline long CacheBytes() {
  static const long bytes = std::max(1L << 18, sysconf(_SC_LEVEL2_CACHE_SIZE) / 2);
  return bytes;
}

constexpr long kRowsOfThread = 192, kRowsOfCache = 512;  // of a part at the least, for the copy of a panel to be worth it

// Several products, or a sum of products, on all threads: [rows, inner] times [inner, columns] each.
//
// `count` products are computed of as many terms each as it takes to use all of `rights`, one product after the other. Their
// left operands are `lefts`, the same for each product. `finish` is called once for each tile.
// T is the type of the left operands and of the multiplication; the right ones are rounded to it.
template <typename T, typename U, typename Finish>
void MultiplyAll(long rows, long columns, long inner, const std::vector<Matrix<T>>& lefts, const std::vector<Matrix<U>>& rights,
                 long count, const Finish& finish) {
  using Op = typename WordOf<T>::Op;
  using Word = typename Op::Word;
  std::vector<LeftWords<Op, T>> words;
  for (const Matrix<T>& left : lefts) words.emplace_back(left, rows, inner);
  const long inner_words = (inner + Op::kElements - 1) / Op::kElements, terms = static_cast<long>(rights.size()) / count;
  const long panels_each = (columns + kPanel - 1) / kPanel, panels = count * panels_each, threads = Pool::Get().threads();
  // The rows are cut into parts where there are few panels for the threads, or for a part to stay in a core's cache while the
  // panels go by. Each task copies its panel, so parts are no smaller than it takes for that to be worth it.
  const long blocks = (rows + kBlockRows - 1) / kBlockRows, bytes = rows * inner_words * sizeof(Word);
  const long for_threads = std::min((3 * threads + panels - 1) / panels, rows / kRowsOfThread);
  const long for_cache = std::min((bytes + CacheBytes() - 1) / CacheBytes(), rows / kRowsOfCache);
  const long parts = std::max({1L, for_threads, for_cache});
  Parallel(panels * parts, [&](long task) {
    const long product = task % panels / panels_each, part = task / panels;
    const long column = task % panels_each * kPanel, width = std::min(kPanel, columns - column);
    const long end = std::min(rows, blocks * (part + 1) / parts * kBlockRows), of_term = inner_words * kPanel;
    const Buffer<Word> panel(terms * of_term);
    if (width < kPanel) std::fill_n(panel.data(), terms * of_term, Word{});
    for (long term = 0; term < terms; ++term) {
      CopyWords<Op>(rights[product * terms + term], inner, column, width, kPanel, panel.data() + term * of_term);
    }
    alignas(64) float sums[kTileRows * kPanel];
    for (long row = blocks * part / parts * kBlockRows, done = 0; row < end; row += done) {
      for (long term = 0; term < terms; ++term) {
        const LeftWords<Op, T>& left = words[term];
        done = MultiplyRows<Op, kVectors>(end - row, left.Row(row), left.row_stride(), left.inner_stride(),
                                          panel.data() + term * of_term, kPanel, inner_words, term > 0, sums, kPanel);
      }
      finish(Tile{product, row, done, column, width, sums});
    }
  });
}

// One product.
template <typename T, typename U, typename Finish>
void Multiply(long rows, long columns, long inner, const Matrix<T>& left, const Matrix<U>& right, const Finish& finish) {
  MultiplyAll<T, U>(rows, columns, inner, {left}, {right}, 1, finish);
}

}  // namespace trainer
