// Products with weights that were laid out for them beforehand: for inference, where weights stay as they are, and where a few
// rows are multiplied with so many weights that to read these is what takes the time.
//
// A matrix [inner, columns] lies in panels of kStored columns, one after the other: [panels, inner, kStored], with zeros beyond
// the last column. In bfloat16 two following rows lie in pairs: [panels, inner / 2, kStored, 2]. The layout is the same on all
// processors, for exports hold it; numbers in bfloat16 are multiplied as floats, and sums are floats.

#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "numbers.h"
#include "parallel.h"
#include "product.h"

namespace trainer {

constexpr long kStored = 64;
static_assert(kStored % kPanel == 0, "a stored panel holds whole ones");

// A pair of bfloat16 along the inner dimension, multiplied as two floats with two of the left operand.
struct WidenedPair {
  static constexpr long kElements = 2;
  static constexpr int kSteps = 2;
  typedef float Left;
  typedef BFloat16Pair Right;
  typedef uint32_t Bits __attribute__((vector_size(sizeof(Vector)), aligned(4)));
  static Vector Spread(const Left* word, int step) { return word[step] - Vector{}; }
  static Vector Columns(const Right* words, int step) {
    const Bits bits = reinterpret_cast<Bits>(LoadVector(words));
    const Bits widened = step == 0 ? bits << 16 : bits & 0xFFFF0000u;  // the first of a pair lies in the lower half
    return reinterpret_cast<Vector>(widened);
  }
  static Vector Add(Vector sum, Vector left, Vector right) { return sum + left * right; }
};

// The word in which panels of a type are multiplied.
template <typename T>
struct PanelWord {
  using Op = FloatWord;
};
template <>
struct PanelWord<BFloat16> {
  using Op = WidenedPair;
};

// The numbers of a matrix in panels.
inline long PanelSize(long inner, long columns) { return (columns + kStored - 1) / kStored * kStored * inner; }

// Asks the system to hold numbers in huge pages, of which a sixth less time goes into reading weights: at once where it can
// (Linux 6.1), else when it comes to it. Nothing depends on whether it does.
template <typename T>
void HoldInHugePages(const T* numbers, long count) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHuge = 1 << 21;
  constexpr int kCollapse = 25;  // MADV_COLLAPSE, which older headers do not name
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(numbers) + kHuge - 1) / kHuge * kHuge;
  const uintptr_t end = reinterpret_cast<uintptr_t>(numbers + count) / kHuge * kHuge;
  if (begin >= end) return;
  void* const first = reinterpret_cast<void*>(begin);
  if (madvise(first, end - begin, kCollapse) != 0) madvise(first, end - begin, MADV_HUGEPAGE);
#endif
}

// Several products with one left operand, float [rows, inner], on all threads: each of `rights` is one matrix in panels, of
// `columns`. `finish` is called once for each tile, as in MultiplyAll.
template <typename T, typename Finish>
void MultiplyPanels(long rows, long columns, long inner, const float* left, const std::vector<const T*>& rights,
                    const Finish& finish) {
  using Op = typename PanelWord<T>::Op;
  const long words = inner / Op::kElements, each = (columns + kPanel - 1) / kPanel;
  const long panels = static_cast<long>(rights.size()) * each, threads = Pool::Get().threads();
  // Rows are cut into parts as in MultiplyAll, but that parts may be small: no task copies anything.
  const long blocks = (rows + kTileRows - 1) / kTileRows, bytes = rows * inner * static_cast<long>(sizeof(float));
  const long for_threads = std::min((3 * threads + panels - 1) / panels, rows / kRowsOfThread);
  const long parts = std::max({1L, for_threads, (bytes + CacheBytes() - 1) / CacheBytes()});
  Parallel(panels * parts, [&](long task) {
    const long product = task % panels / each, part = task / panels, column = task % panels % each * kPanel;
    const auto* stored = reinterpret_cast<const typename Op::Right*>(rights[product]);
    const auto* panel = stored + column / kStored * kStored * words + column % kStored;
    const long end = std::min(rows, blocks * (part + 1) / parts * kTileRows), width = std::min(kPanel, columns - column);
    alignas(64) float sums[kTileRows * kPanel];
    for (long row = blocks * part / parts * kTileRows, done = 0; row < end; row += done) {
      // Tiles of like height, as 5 + 4 + 4: a single row would wait for its panel as long as four do.
      const long tiles = (end - row + kTileRows - 1) / kTileRows, height = (end - row + tiles - 1) / tiles;
      done = MultiplyRows<Op, kVectors>(height, left + row * inner, inner, Op::kElements, panel, kStored, words, false, sums, kPanel);
      finish(Tile{product, row, done, column, width, sums});
    }
  });
}

}  // namespace trainer
