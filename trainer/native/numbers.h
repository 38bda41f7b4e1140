// Numbers of 16 and 32 bits, and the functions of them that the layers need, written so that the compiler vectorizes loops.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace trainer {

// Numbers in a register.
#if defined(__AVX512F__)
constexpr long kLanes = 16;
#elif defined(__AVX__)
constexpr long kLanes = 8;
#else
constexpr long kLanes = 4;
#endif

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(4)));

// Memory of any type read and written as a vector. (A vector type that may alias would be shorter, and products in bfloat16
// a third slower: GCC then takes less care of its registers.)
#if defined(__AVX__) && !defined(__AVX512F__)
// GCC copies 32 bytes in two halves by way of the stack, and waits there: products took four times as long.
inline Vector LoadVector(const void* memory) {
  return reinterpret_cast<Vector>(_mm256_loadu_ps(static_cast<const float*>(memory)));
}

inline void StoreVector(Vector vector, void* memory) {
  _mm256_storeu_ps(static_cast<float*>(memory), reinterpret_cast<__m256>(vector));
}
#else
inline Vector LoadVector(const void* memory) {
  Vector vector;
  std::memcpy(&vector, memory, sizeof vector);
  return vector;
}

inline void StoreVector(Vector vector, void* memory) { std::memcpy(memory, &vector, sizeof vector); }
#endif

// TensorFlow's bfloat16. All of this library reads and writes such memory as this type, or by memcpy, never as another type.
struct BFloat16 {
  uint16_t bits;
};

typedef uint32_t BFloat16Pair;  // two bfloat16 of memory; read by LoadPair

inline BFloat16Pair LoadPair(const void* memory) {
  BFloat16Pair pair;
  std::memcpy(&pair, memory, sizeof pair);
  return pair;
}

inline float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t ToBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float Load(float value) { return value; }
inline float Load(BFloat16 value) { return FromBits(static_cast<uint32_t>(value.bits) << 16); }

inline void Store(float value, float* place) { *place = value; }

// Rounds to the nearest, ties to even; a NaN stays one.
inline void Store(float value, BFloat16* place) {
  const uint32_t bits = ToBits(value);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  place->bits = static_cast<uint16_t>(value == value ? rounded : 0x7FC0u);
}

// e^x, for x <= 88; 0 below -87; a NaN stays one. Relative error under 2e-7: x = n ln 2 + r, and e^r by its Taylor series.
inline float Exp(float x) {
  const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds n into the low bits
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const float result = FromBits(ToBits(p) + (ToBits(shifted) << 23));
  return x >= -87.0f ? result : (x == x ? 0.0f : x);
}

// GELU, x Phi(x), and its derivative, Phi(x) + x phi(x) (Hendrycks and Gimpel 2016, arXiv:1606.08415).
// Phi by Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: absolute error under 1.5e-7.
struct Gelu {
  float value, derivative;
};

inline Gelu GeluOf(float x) {
  const float z = std::fabs(x) * 0.707106781f;
  const float t = 1.0f / (1.0f + 0.3275911f * z);
  const float gauss = Exp(-z * z);  // e^(-x^2 / 2)
  const float series = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
  const float upper = 0.5f * series * gauss;  // 1 - Phi(|x|)
  const float cumulative = x < 0.0f ? upper : 1.0f - upper;
  return {x * cumulative, cumulative + x * gauss * 0.39894228f};
}

// The sum of value(0), ..., value(size - 1): kLanes partial sums, which the compiler keeps in a register.
template <typename Value>
inline float SumOf(long size, const Value& value) {
  float parts[kLanes] = {};
  long j = 0;
  for (; j + kLanes <= size; j += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) parts[lane] += value(j + lane);
  }
  for (; j < size; ++j) parts[0] += value(j);
#pragma GCC unroll 4
  for (long half = kLanes / 2; half > 0; half /= 2) {
    for (long lane = 0; lane < half; ++lane) parts[lane] += parts[lane + half];
  }
  return parts[0];
}

// The highest of `size` numbers, a multiple of kLanes.
inline float HighestOf(long size, const float* numbers) {
  Vector highest = LoadVector(numbers);
  for (long j = kLanes; j < size; j += kLanes) {
    const Vector more = LoadVector(numbers + j);
    highest = more > highest ? more : highest;  // the compiler does not make this of a loop over floats
  }
  float parts[kLanes];
  std::memcpy(parts, &highest, sizeof parts);
  return *std::max_element(parts, parts + kLanes);
}

// Dropout as `runtime.randomness.drop` draws it: a hash of the element's number and two keys.
class Dropout {
 public:
  // `rate` in [0, 1); `seed` of two numbers.
  Dropout(float rate, const int32_t* seed)
      : first_(static_cast<uint32_t>(seed[0])),
        second_(static_cast<uint32_t>(seed[1])),
        threshold_(static_cast<uint32_t>(std::floor(static_cast<double>(rate) * 4294967296.0))),
        scale_(1.0f / (1.0f - rate)) {}

  bool drops() const { return threshold_ != 0; }

  // What `count` elements from number `first` on are multiplied with: 0, or 1 / (1 - rate).
  void Factors(uint32_t first, long count, float* factors) const {
    if (!drops()) {
      for (long i = 0; i < count; ++i) factors[i] = 1.0f;
      return;
    }
    const uint32_t first_key = first_, second_key = second_, threshold = threshold_;
    const float scale = scale_;
    for (int i = 0; i < static_cast<int>(count); ++i) {
      const uint32_t bits = Mixed(Mixed((first + static_cast<uint32_t>(i)) ^ first_key) ^ second_key);
      factors[i] = bits >= threshold ? scale : 0.0f;
    }
  }

 private:
  static uint32_t Mixed(uint32_t bits) {  // Chris Wellons' lowbias32, see trainer/data/hashing.py
    bits = (bits ^ (bits >> 16)) * 0x7FEB352Du;
    bits = (bits ^ (bits >> 15)) * 0x846CA68Bu;
    return bits ^ (bits >> 16);
  }

  uint32_t first_, second_, threshold_;
  float scale_;
};

}  // namespace trainer
