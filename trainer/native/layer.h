// One layer of BERT on packed rows, forward and backward. Letters as in arrays.h.
//
// Devlin et al. 2019 (arXiv:1810.04805), section 3, as `trainer/models/kernels/xla.py` computes it.

#pragma once

#include <algorithm>
#include <vector>

#include "arrays.h"
#include "attention.h"
#include "buffer.h"
#include "numbers.h"
#include "product.h"
#include "rows.h"

namespace trainer {

// A dense layer of attention: [H, H] and [H], and where its result goes, [rows, H].
template <typename T>
struct Projection {
  const float *kernel, *bias;
  T* to;
};

// For each projection: to = inputs times kernel, plus the bias.
template <typename T>
void Project(long rows, long hidden, const T* inputs, const std::vector<Projection<T>>& projections) {
  std::vector<Matrix<float>> kernels;
  for (const Projection<T>& projection : projections) kernels.push_back(RowMajor(projection.kernel, hidden));
  MultiplyAll<T>(rows, hidden, hidden, {RowMajor(inputs, hidden)}, kernels, kernels.size(), [&](const Tile& tile) {
    const float* bias = projections[tile.product].bias;
    T* to = projections[tile.product].to;
    tile.ForEach(hidden, [&](long place, long j, float sum) { trainer::Store(sum + bias[j], to + place); });
  });
}

// sums = dropout(inputs times kernel, plus the bias) + residual: float [rows, out].
template <typename T>
void ProjectAndAdd(long rows, long in, long out, const T* inputs, const float* kernel, const float* bias,
                   const Dropout& dropout, const T* residual, float* sums) {
  Multiply(rows, out, in, RowMajor(inputs, in), RowMajor(kernel, out), [&](const Tile& tile) {
    tile.ForEachDropped(out, dropout, [&](long place, long j, float sum, float factor) {
      sums[place] = (sum + bias[j]) * factor + Load(residual[place]);
    });
  });
}

// gradient = inputs transposed times upstream: [rows, in] and [rows, out] to float [in, out].
// The narrower of the two is the left operand, for that is copied as a whole.
template <typename T>
void KernelGradient(long rows, long in, long out, const T* inputs, const T* upstream, float* gradient) {
  if (in <= out) {
    Multiply(in, out, rows, RowMajor(inputs, in).Transposed(), RowMajor(upstream, out), [&](const Tile& tile) {
      tile.ForEach(out, [&](long place, long, float sum) { gradient[place] = sum; });
    });
  } else {
    Multiply(out, in, rows, RowMajor(upstream, out).Transposed(), RowMajor(inputs, in), [&](const Tile& tile) {
      for (long j = 0; j < tile.columns; ++j) {
        float* to = gradient + (tile.column + j) * out + tile.row;
        for (long i = 0; i < tile.rows; ++i) to[i] = tile.sums[i * kPanel + j];
      }
    });
  }
}

// Calls work(place, j, sum) for each element of upstream times kernel transposed: [rows, out] and float [in, out] to [rows, in].
template <typename T, typename Work>
void InputGradient(long rows, long in, long out, const T* upstream, const float* kernel, const Work& work) {
  Multiply(rows, in, out, RowMajor(upstream, out), RowMajor(kernel, out).Transposed(),
           [&](const Tile& tile) { tile.ForEach(in, work); });
}

// A dense layer of attention on the way back: the gradient of what it gave, [rows, H], and where those of its weights go.
template <typename T>
struct ProjectionGradient {
  const T* upstream;
  const float* kernel;
  float *of_kernel, *of_bias;
};

// Backward through projections of the same inputs, [rows, H]; `of_rest` is the inputs' gradient by all other ways.
template <typename T>
void ProjectBackward(long rows, long hidden, const T* inputs, const std::vector<ProjectionGradient<T>>& projections,
                     const float* of_rest, T* of_inputs) {
  std::vector<Matrix<T>> upstreams;
  std::vector<Matrix<float>> kernels;
  for (const ProjectionGradient<T>& projection : projections) {
    upstreams.push_back(RowMajor(projection.upstream, hidden));
    kernels.push_back(RowMajor(projection.kernel, hidden).Transposed());
    SumColumns(rows, hidden, projection.upstream, projection.of_bias);
  }
  const Matrix<T> turned = RowMajor(inputs, hidden).Transposed();
  MultiplyAll<T>(hidden, hidden, rows, {turned}, upstreams, upstreams.size(), [&](const Tile& tile) {
    float* of_kernel = projections[tile.product].of_kernel;
    tile.ForEach(hidden, [&](long place, long, float sum) { of_kernel[place] = sum; });
  });
  MultiplyAll<T>(rows, hidden, hidden, upstreams, kernels, 1, [&](const Tile& tile) {
    tile.ForEach(hidden, [&](long place, long, float sum) { trainer::Store(sum + of_rest[place], of_inputs + place); });
  });
}

// The hidden states of the tokens that are read: themselves, or copied to `copy`.
template <typename T>
const T* ReadersOf(const LayerShape& shape, const LayerInputs<T>& in, Buffer<T>* copy) {
  if (in.read_positions == nullptr) return in.hidden;
  *copy = Buffer<T>(shape.all_readers() * shape.hidden);
  for (long reader = 0; reader < shape.all_readers(); ++reader) {
    const long cell = reader / shape.readers * shape.length + in.read_positions[reader];
    std::copy_n(in.hidden + cell * shape.hidden, shape.hidden, copy->data() + reader * shape.hidden);
  }
  return copy->data();
}

// The opposite: float [B, P, H] added up to [B, L, H]; a token may be read twice.
inline Buffer<float> SpreadReaders(const LayerShape& shape, const int32_t* read_positions, const float* of_readers) {
  Buffer<float> of_cells(shape.all_cells() * shape.hidden);
  std::fill_n(of_cells.data(), shape.all_cells() * shape.hidden, 0.0f);
  for (long reader = 0; reader < shape.all_readers(); ++reader) {
    const long cell = reader / shape.readers * shape.length + read_positions[reader];
    for (long j = 0; j < shape.hidden; ++j) of_cells[cell * shape.hidden + j] += of_readers[reader * shape.hidden + j];
  }
  return of_cells;
}

template <typename T>
void LayerForward(const LayerShape& shape, const LayerInputs<T>& in, const LayerOutputs<T>& out) {
  const long cells = shape.all_cells(), readers = shape.all_readers(), hidden = shape.hidden, inner = shape.inner;
  const float* const* w = in.weights;
  Buffer<T> copy;
  const T* reading = ReadersOf(shape, in, &copy);
  const Projection<T> query{w[kQuery], w[kQueryBias], out.query};
  std::vector<Projection<T>> of_cells{{w[kKey], w[kKeyBias], out.key}, {w[kValue], w[kValueBias], out.value}};
  if (reading == in.hidden) {
    of_cells.push_back(query);
  } else {
    Project<T>(readers, hidden, reading, {query});
  }
  Project<T>(cells, hidden, in.hidden, of_cells);
  const auto segments = SegmentsOf(shape, in.segment_ids, in.read_positions);
  Attend(shape, segments, Dropout(shape.attention_rate, in.seeds), out);

  ProjectAndAdd(readers, hidden, hidden, out.context, w[kOutput], w[kOutputBias], Dropout(shape.hidden_rate, in.seeds + 2),
                reading, out.normalized_1);
  Normalize(readers, hidden, shape.epsilon, w[kOutputGamma], w[kOutputBeta], out.normalized_1, out.inverse_1, out.attended);

  const float* bias = w[kInnerBias];
  Multiply(readers, inner, hidden, RowMajor<T>(out.attended, hidden), RowMajor(w[kInner], inner),
           [&](const Tile& tile) {
             tile.ForEach(inner, [&](long place, long j, float sum) {
               const Gelu gelu = GeluOf(sum + bias[j]);
               trainer::Store(gelu.value, out.activated + place);
               trainer::Store(gelu.derivative, out.slopes + place);
             });
           });
  ProjectAndAdd<T>(readers, inner, hidden, out.activated, w[kOuter], w[kOuterBias],
                   Dropout(shape.hidden_rate, in.seeds + 4), out.attended, out.normalized_2);
  Normalize(readers, hidden, shape.epsilon, w[kOuterGamma], w[kOuterBeta], out.normalized_2, out.inverse_2, out.output);
}

template <typename T>
void LayerBackward(const LayerShape& shape, const LayerInputs<T>& in, const LayerOutputs<T>& saved, const T* upstream,
                   const LayerGradients<T>& out) {
  const long cells = shape.all_cells(), readers = shape.all_readers(), hidden = shape.hidden, inner = shape.inner;
  const float* const* w = in.weights;
  float* const* of = out.weights;

  // The feed-forward half, from its end.
  Buffer<float> of_sum_2(readers * hidden), of_attended(readers * hidden);
  Buffer<T> of_outer(readers * hidden), of_inner(readers * inner);
  NormalizeBackward<T>(readers, hidden, upstream, w[kOuterGamma], saved.normalized_2, saved.inverse_2,
                       Dropout(shape.hidden_rate, in.seeds + 4),
                       {of_sum_2.data(), of_outer.data(), of[kOuterGamma], of[kOuterBeta], of[kOuterBias]});
  InputGradient(readers, inner, hidden, of_outer.data(), w[kOuter], [&](long place, long, float sum) {
    trainer::Store(sum * Load(saved.slopes[place]), of_inner.data() + place);
  });
  KernelGradient<T>(readers, inner, hidden, saved.activated, of_outer.data(), of[kOuter]);
  SumColumns(readers, inner, of_inner.data(), of[kInnerBias]);
  KernelGradient<T>(readers, hidden, inner, saved.attended, of_inner.data(), of[kInner]);
  InputGradient(readers, hidden, inner, of_inner.data(), w[kInner], [&](long place, long, float sum) {
    of_attended[place] = sum + of_sum_2[place];
  });

  // Attention's half.
  Buffer<float> of_sum_1(readers * hidden), of_context(readers * hidden);
  Buffer<T> of_projected(readers * hidden), of_query(readers * hidden), of_key(cells * hidden), of_value(cells * hidden);
  NormalizeBackward<T>(readers, hidden, of_attended.data(), w[kOutputGamma], saved.normalized_1, saved.inverse_1,
                       Dropout(shape.hidden_rate, in.seeds + 2),
                       {of_sum_1.data(), of_projected.data(), of[kOutputGamma], of[kOutputBeta], of[kOutputBias]});
  KernelGradient<T>(readers, hidden, hidden, saved.context, of_projected.data(), of[kOutput]);
  InputGradient(readers, hidden, hidden, of_projected.data(), w[kOutput],
                [&](long place, long, float sum) { of_context[place] = sum; });
  const auto segments = SegmentsOf(shape, in.segment_ids, in.read_positions);
  AttendBackward(shape, segments, Dropout(shape.attention_rate, in.seeds), saved, of_context.data(), of_query.data(),
                 of_key.data(), of_value.data());

  Buffer<T> copy;
  const T* reading = ReadersOf(shape, in, &copy);
  std::vector<ProjectionGradient<T>> of_cells{{of_key.data(), w[kKey], of[kKey], of[kKeyBias]},
                                              {of_value.data(), w[kValue], of[kValue], of[kValueBias]}};
  if (reading == in.hidden) {
    of_cells.push_back({of_query.data(), w[kQuery], of[kQuery], of[kQueryBias]});
  } else {
    KernelGradient(readers, hidden, hidden, reading, of_query.data(), of[kQuery]);
    SumColumns(readers, hidden, of_query.data(), of[kQueryBias]);
    InputGradient(readers, hidden, hidden, of_query.data(), w[kQuery],
                  [&](long place, long, float sum) { of_sum_1[place] += sum; });
    of_sum_1 = SpreadReaders(shape, in.read_positions, of_sum_1.data());
  }
  ProjectBackward(cells, hidden, in.hidden, of_cells, of_sum_1.data(), out.hidden);
}

}  // namespace trainer
