// Attention within the segments of packed rows: a segment and a head at a time, on one thread. Letters as in arrays.h.
//
// A segment's queries, keys and values of a head are some kilobytes, and so are its weights: all stays in the first cache.

#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "arrays.h"
#include "buffer.h"
#include "numbers.h"
#include "parallel.h"
#include "product.h"
#include "transpose.h"

namespace trainer {

// Tokens of one segment, side by side in a row, and those among them that are read.
struct Segment {
  long first_cell, length;
  std::vector<long> readers;
};

inline std::vector<Segment> SegmentsOf(const LayerShape& shape, const int32_t* segment_ids, const int32_t* read_positions) {
  std::vector<Segment> segments;
  for (long row = 0; row < shape.rows; ++row) {
    const int32_t* ids = segment_ids + row * shape.length;
    for (long begin = 0, end; begin < shape.length; begin = end) {
      for (end = begin + 1; end < shape.length && ids[end] == ids[begin];) ++end;
      if (ids[begin] == 0) continue;  // padding: nobody reads it
      Segment segment{row * shape.length + begin, end - begin, {}};
      if (read_positions == nullptr) {
        for (long i = begin; i < end; ++i) segment.readers.push_back(row * shape.length + i);
      } else {
        for (long p = 0; p < shape.readers; ++p) {
          const long position = read_positions[row * shape.readers + p];
          if (begin <= position && position < end) segment.readers.push_back(row * shape.readers + p);
        }
      }
      segments.push_back(std::move(segment));
    }
  }
  return segments;
}

// Whether the readers, or the cells that anybody reads, are all of them: the rest is to be filled with zeros.
inline bool HoldAllReaders(const LayerShape& shape, const std::vector<Segment>& segments) {
  long count = 0;
  for (const Segment& segment : segments) count += static_cast<long>(segment.readers.size());
  return count == shape.all_readers();
}

inline bool HoldAllCells(const LayerShape& shape, const std::vector<Segment>& segments) {
  long count = 0;
  for (const Segment& segment : segments) count += segment.readers.empty() ? 0 : segment.length;
  return count == shape.all_cells();
}

// What forward and backward compute alike: a segment's queries, keys, values of a head, and its attention weights.
// "Wide" numbers of columns are rounded up to whole vectors, which is how wide the rows in memory are: then no loop over them
// has a remainder. What lies beyond a segment's tokens weighs nothing.
template <typename T>
class HeadAttention {
 public:
  // Of `memory` it takes `MemoryOf(shape, segment)` numbers.
  HeadAttention(const LayerShape& shape, const Segment& segment, long head, const LayerOutputs<T>& saved, float* memory)
      : shape_(shape),
        segment_(segment),
        head_(head),
        readers_(static_cast<long>(segment.readers.size())),
        tokens_(segment.length),
        wide_tokens_(RoundUp(tokens_)),
        wide_(RoundUp(shape.width())) {
    const auto take = [&memory](long count) { return std::exchange(memory, memory + count); };
    queries = take(readers_ * wide_);
    upstream = take(readers_ * wide_);
    keys = take(wide_tokens_ * wide_);
    values = take(wide_tokens_ * wide_);
    keys_turned = take(wide_ * wide_tokens_);
    values_turned = take(wide_ * wide_tokens_);
    weights = take(readers_ * wide_tokens_);
    dropped = take(readers_ * wide_tokens_);
    scratch = take(readers_ * wide_tokens_);
    factors = take(readers_ * wide_tokens_);
    for (long i = 0; i < readers_; ++i) Read(saved.query, segment_.readers[i], queries + i * wide_);
    for (long j = 0; j < tokens_; ++j) Read(saved.key, segment_.first_cell + j, keys + j * wide_);
    for (long j = 0; j < tokens_; ++j) Read(saved.value, segment_.first_cell + j, values + j * wide_);
    std::fill(keys + tokens_ * wide_, keys + wide_tokens_ * wide_, 0.0f);
    std::fill(values + tokens_ * wide_, values + wide_tokens_ * wide_, 0.0f);
    CopyTransposed(wide_tokens_, wide_, keys, wide_, keys_turned, wide_tokens_);
  }

  static long MemoryOf(const LayerShape& shape, const Segment& segment) {
    const long readers = static_cast<long>(segment.readers.size()), wide_tokens = RoundUp(segment.length);
    return RoundUp(shape.width()) * (2 * readers + 4 * wide_tokens) + 4 * readers * wide_tokens;
  }

  // weights = queries times keys, scaled: the scores, float [readers, tokens], rows of `wide_tokens`.
  void Score() {
    MultiplyHere(readers_, wide_tokens_, shape_.width(), queries, wide_, 1, keys_turned, wide_tokens_, weights, wide_tokens_);
    const float scale = 1.0f / std::sqrt(static_cast<float>(shape_.width()));
    const int tokens = static_cast<int>(tokens_);
    for (long i = 0; i < readers_; ++i) {
      float* row = weights + i * wide_tokens_;
      for (int j = 0; j < static_cast<int>(wide_tokens_); ++j) row[j] = j < tokens ? row[j] * scale : -INFINITY;
    }
  }

  // Softmax of the scores in `weights`, in place; notes the logarithms of the sums.
  // In three passes: the steps of one row wait for each other, those of different rows do not.
  void Softmax(float* log_sums) {
    for (long i = 0; i < readers_; ++i) log_sums[PlaceOf(i)] = HighestOf(wide_tokens_, weights + i * wide_tokens_);
    SoftmaxAgain(log_sums);
    for (long i = 0; i < readers_; ++i) {
      float* row = weights + i * wide_tokens_;
      const float sum = SumOf(wide_tokens_, [&](long j) { return row[j]; }), inverse = 1.0f / sum;
      for (long j = 0; j < wide_tokens_; ++j) row[j] *= inverse;
      log_sums[PlaceOf(i)] += std::log(sum);
    }
  }

  // The same weights at once, from the logarithms that were noted.
  void SoftmaxAgain(const float* log_sums) {
    for (long i = 0; i < readers_; ++i) {
      float* row = weights + i * wide_tokens_;
      const float log_sum = log_sums[PlaceOf(i)];
      for (long j = 0; j < wide_tokens_; ++j) row[j] = Exp(row[j] - log_sum);
    }
  }

  // Dropout's factor of each weight: float [readers, tokens], rows of `wide_tokens`.
  void DrawFactors(const Dropout& dropout) {
    for (long i = 0; i < readers_; ++i) {
      const long reader = segment_.readers[i], row = reader / shape_.readers, place = reader % shape_.readers;
      const long number = ((row * shape_.heads + head_) * shape_.readers + place) * shape_.length;
      const uint32_t first = static_cast<uint32_t>(number + segment_.first_cell % shape_.length);
      dropout.Factors(first, wide_tokens_, factors + i * wide_tokens_);
    }
  }

  // out = numbers times factors.
  void Drop(const float* numbers, float* out) const {
    for (long i = 0; i < readers_ * wide_tokens_; ++i) out[i] = numbers[i] * factors[i];
  }

  template <typename U>
  void Read(const U* matrix, long row, float* to) const {
    const U* from = matrix + row * shape_.hidden + head_ * shape_.width();
    for (long d = 0; d < shape_.width(); ++d) to[d] = Load(from[d]);
    for (long d = shape_.width(); d < wide_; ++d) to[d] = 0.0f;
  }

  void Write(const float* from, T* matrix, long row) const {
    T* to = matrix + row * shape_.hidden + head_ * shape_.width();
    for (long d = 0; d < shape_.width(); ++d) trainer::Store(from[d], to + d);
  }

  long PlaceOf(long i) const { return segment_.readers[i] * shape_.heads + head_; }  // of a reader's logarithm

  long readers() const { return readers_; }
  long tokens() const { return tokens_; }
  long wide_tokens() const { return wide_tokens_; }
  long wide() const { return wide_; }

  float *queries, *upstream, *keys, *values, *keys_turned, *values_turned, *weights, *dropped, *scratch, *factors;

 private:
  static long RoundUp(long size) { return (size + kLanes - 1) / kLanes * kLanes; }

  const LayerShape& shape_;
  const Segment& segment_;
  long head_, readers_, tokens_, wide_tokens_, wide_;
};

// Calls work(head attention, segment) for all heads of all segments that are read.
template <typename T, typename Work>
void ForEachHead(const LayerShape& shape, const std::vector<Segment>& segments, const LayerOutputs<T>& saved, const Work& work) {
  long memory_of_one = 0;
  for (const Segment& segment : segments) memory_of_one = std::max(memory_of_one, HeadAttention<T>::MemoryOf(shape, segment));
  constexpr long kHeadsEach = 4;  // of a part at the least
  ParallelRanges(static_cast<long>(segments.size()) * shape.heads, kHeadsEach, [&](long begin, long end) {
    const Buffer<float> memory(memory_of_one);
    for (long i = begin; i < end; ++i) {
      const Segment& segment = segments[i / shape.heads];
      if (segment.readers.empty()) continue;
      HeadAttention<T> head(shape, segment, i % shape.heads, saved, memory.data());
      work(head, segment);
    }
  });
}

template <typename T>
void Attend(const LayerShape& shape, const std::vector<Segment>& segments, const Dropout& dropout, const LayerOutputs<T>& out) {
  if (!HoldAllReaders(shape, segments)) {
    std::fill_n(out.context, shape.all_readers() * shape.hidden, T{});
    std::fill_n(out.log_sums, shape.all_readers() * shape.heads, 0.0f);
  }
  ForEachHead(shape, segments, out, [&](HeadAttention<T>& head, const Segment& segment) {
    head.Score();
    head.Softmax(out.log_sums);
    if (dropout.drops()) {
      head.DrawFactors(dropout);
      head.Drop(head.weights, head.weights);
    }
    float* context = head.upstream;
    MultiplyHere(head.readers(), shape.width(), head.tokens(), head.weights, head.wide_tokens(), 1, head.values, head.wide(),
                 context, head.wide());
    for (long i = 0; i < head.readers(); ++i) head.Write(context + i * head.wide(), out.context, segment.readers[i]);
  });
}

// From the gradient of the context, float [B, P, H], to those of queries, keys and values.
template <typename T>
void AttendBackward(const LayerShape& shape, const std::vector<Segment>& segments, const Dropout& dropout,
                    const LayerOutputs<T>& saved, const float* context_gradient, T* query, T* key, T* value) {
  if (!HoldAllReaders(shape, segments)) std::fill_n(query, shape.all_readers() * shape.hidden, T{});
  if (!HoldAllCells(shape, segments)) {
    std::fill_n(key, shape.all_cells() * shape.hidden, T{});
    std::fill_n(value, shape.all_cells() * shape.hidden, T{});
  }
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.width()));
  ForEachHead(shape, segments, saved, [&](HeadAttention<T>& head, const Segment& segment) {
    const long readers = head.readers(), tokens = head.tokens(), wide = head.wide(), wide_tokens = head.wide_tokens();
    for (long i = 0; i < readers; ++i) head.Read(context_gradient, segment.readers[i], head.upstream + i * wide);
    head.Score();
    head.SoftmaxAgain(saved.log_sums);
    head.DrawFactors(dropout);
    head.Drop(head.weights, head.dropped);
    // Each product reuses the memory of what is not needed any more.
    float* value_gradient = head.values_turned;  // [tokens, wide] fits into [wide, wide_tokens]
    MultiplyHere(tokens, shape.width(), readers, head.dropped, 1, wide_tokens, head.upstream, wide, value_gradient, wide);
    for (long j = 0; j < tokens; ++j) head.Write(value_gradient + j * wide, value, segment.first_cell + j);
    CopyTransposed(wide_tokens, wide, head.values, wide, head.values_turned, wide_tokens);
    float* scores = head.scratch;
    MultiplyHere(readers, wide_tokens, shape.width(), head.upstream, wide, 1, head.values_turned, wide_tokens, scores, wide_tokens);
    head.Drop(scores, scores);
    for (long i = 0; i < readers; ++i) {
      float* row = scores + i * wide_tokens;
      const float* weights = head.weights + i * wide_tokens;
      const float sum = SumOf(wide_tokens, [&](long j) { return row[j] * weights[j]; });
      for (long j = 0; j < wide_tokens; ++j) row[j] = (row[j] - sum) * weights[j] * scale;
    }
    float* query_gradient = head.upstream;
    MultiplyHere(readers, shape.width(), tokens, scores, wide_tokens, 1, head.keys, wide, query_gradient, wide);
    for (long i = 0; i < readers; ++i) head.Write(query_gradient + i * wide, query, segment.readers[i]);
    float* key_gradient = head.keys_turned;
    MultiplyHere(tokens, shape.width(), readers, scores, 1, wide_tokens, head.queries, wide, key_gradient, wide);
    for (long j = 0; j < tokens; ++j) head.Write(key_gradient + j * wide, key, segment.first_cell + j);
  });
}

}  // namespace trainer
