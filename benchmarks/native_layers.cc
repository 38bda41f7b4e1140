// Six layers of MiniLM's size by the native kernels, without TensorFlow around them: milliseconds of the forward and the
// backward pass, and the rate of their products. For work on trainer/native, where a step is too coarse a measure.
//
//     c++ -std=c++17 -O3 -march=native -mprefer-vector-width=512 -fno-math-errno -fno-trapping-math -pthread
//         -Itrainer/native benchmarks/native_layers.cc -o /tmp/native_layers && /tmp/native_layers 32 64
//
// Arguments: texts of a batch, tokens of each; "bfloat16" as a third for that type. Medians of 15 steps; the numbers are random.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "layer.h"

namespace trainer {
namespace {

constexpr long kLayers = 6, kHidden = 384, kHeads = 12, kInnerSize = 1536;
constexpr int kSteps = 15;

// Memory that lives as long as the program, of random numbers.
template <typename T>
T* Random(long count) {
  static std::mt19937 generator(1);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  T* numbers = static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) / 64 + 1) * 64));
  for (long i = 0; i < count; ++i) Store(normal(generator), numbers + i);
  return numbers;
}

template <typename T>
struct Layer {
  LayerShape shape;
  LayerInputs<T> in;
  LayerOutputs<T> out;
  LayerGradients<T> gradients;
};

template <typename T>
Layer<T> MakeLayer(const T* hidden, const std::vector<int32_t>& segment_ids, const std::vector<int32_t>* read,
                   const int32_t* seeds) {
  const long l = static_cast<long>(segment_ids.size()), p = read ? static_cast<long>(read->size()) : l;
  const long h = kHidden, f = kInnerSize;
  Layer<T> layer{{1, l, p, h, kHeads, f, 1e-12f, 0.1f, 0.1f}, {}, {}, {}};
  layer.in = {hidden, segment_ids.data(), read ? read->data() : nullptr, seeds, {}};
  for (int i = 0; i < kWeights; ++i) {
    const long size = ColumnsOf(i, h, f) * (IsMatrix(i) ? RowsOf(i, h, f) : 1);
    layer.in.weights[i] = Random<float>(size);
    layer.gradients.weights[i] = Random<float>(size);
  }
  layer.gradients.hidden = Random<T>(l * h);
  layer.out = {Random<T>(p * h),     Random<T>(p * h), Random<T>(l * h), Random<T>(l * h),     Random<float>(p * kHeads),
               Random<T>(p * h),     Random<float>(p * h), Random<float>(p), Random<T>(p * h), Random<T>(p * f),
               Random<T>(p * f),     Random<float>(p * h), Random<float>(p)};
  return layer;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

template <typename T>
void Measure(long texts, long tokens) {
  std::vector<int32_t> segment_ids, first_tokens;
  for (long text = 0; text < texts; ++text) {
    first_tokens.push_back(static_cast<int32_t>(segment_ids.size()));
    segment_ids.insert(segment_ids.end(), tokens, static_cast<int32_t>(text + 1));
  }
  const int32_t seeds[] = {1, 2, 3, 4, 5, 6};
  std::vector<Layer<T>> layers;
  const T* hidden = Random<T>(texts * tokens * kHidden);
  double products = 0.0;  // multiplications and additions of the forward pass
  for (long i = 0; i < kLayers; ++i) {
    layers.push_back(MakeLayer(hidden, segment_ids, i == kLayers - 1 ? &first_tokens : nullptr, seeds));
    hidden = layers.back().out.output;
    const double cells = static_cast<double>(texts * tokens), readers = i == kLayers - 1 ? texts : cells;
    products += 2.0 * kHidden * (2 * kHidden * (cells + readers) + 2 * kInnerSize * readers);
  }
  const T* upstream = Random<T>(texts * kHidden);
  std::vector<double> forward, backward;
  using Clock = std::chrono::steady_clock;
  for (int step = 0; step < kSteps; ++step) {
    const auto begun = Clock::now();
    for (Layer<T>& layer : layers) LayerForward(layer.shape, layer.in, layer.out);
    const auto turned = Clock::now();
    const T* of_output = upstream;
    for (auto layer = layers.rbegin(); layer != layers.rend(); ++layer) {
      LayerBackward(layer->shape, layer->in, layer->out, of_output, layer->gradients);
      of_output = layer->gradients.hidden;
    }
    forward.push_back(std::chrono::duration<double>(turned - begun).count());
    backward.push_back(std::chrono::duration<double>(Clock::now() - turned).count());
  }
  const double seconds = Median(forward) + Median(backward);
  std::printf("%ld texts of %ld tokens: forward %.1f ms, backward %.1f ms, %.0f GFLOP/s\n", texts, tokens, 1e3 * Median(forward),
              1e3 * Median(backward), 3e-9 * products / seconds);
}

}  // namespace
}  // namespace trainer

int main(int count, char** arguments) {
  if (count < 3) {
    std::fprintf(stderr, "usage: native_layers TEXTS TOKENS [bfloat16]\n");
    return 2;
  }
  const long texts = std::atol(arguments[1]), tokens = std::atol(arguments[2]);
  if (count > 3 && std::strcmp(arguments[3], "bfloat16") == 0) {
    trainer::Measure<trainer::BFloat16>(texts, tokens);
  } else {
    trainer::Measure<float>(texts, tokens);
  }
  return 0;
}
