// What this library was compiled to use, and whether the processor that loads it has it.

#pragma once

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace trainer {

// Returns the first instruction set that the compiler was allowed to use and that this processor lacks; null if there is none.
inline const char* MissingInstructions() {
#define TRAINER_REQUIRE(name) \
  if (!__builtin_cpu_supports(name)) return name;
#if defined(__x86_64__)
#if defined(__AVX512ER__)  // no newer processor has it: for a test
  TRAINER_REQUIRE("avx512er")
#endif
#if defined(__SSE3__)
  TRAINER_REQUIRE("sse3")
#endif
#if defined(__SSSE3__)
  TRAINER_REQUIRE("ssse3")
#endif
#if defined(__SSE4_1__)
  TRAINER_REQUIRE("sse4.1")
#endif
#if defined(__SSE4_2__)
  TRAINER_REQUIRE("sse4.2")
#endif
#if defined(__POPCNT__)
  TRAINER_REQUIRE("popcnt")
#endif
#if defined(__AVX__)
  TRAINER_REQUIRE("avx")
#endif
#if defined(__AVX2__)
  TRAINER_REQUIRE("avx2")
#endif
#if defined(__FMA__)
  TRAINER_REQUIRE("fma")
#endif
#if defined(__F16C__)
  TRAINER_REQUIRE("f16c")
#endif
#if defined(__BMI__)
  TRAINER_REQUIRE("bmi")
#endif
#if defined(__BMI2__)
  TRAINER_REQUIRE("bmi2")
#endif
#if defined(__LZCNT__)
  TRAINER_REQUIRE("lzcnt")
#endif
#if defined(__MOVBE__)
  TRAINER_REQUIRE("movbe")
#endif
#if defined(__AVX512F__)
  TRAINER_REQUIRE("avx512f")
#endif
#if defined(__AVX512CD__)
  TRAINER_REQUIRE("avx512cd")
#endif
#if defined(__AVX512BW__)
  TRAINER_REQUIRE("avx512bw")
#endif
#if defined(__AVX512DQ__)
  TRAINER_REQUIRE("avx512dq")
#endif
#if defined(__AVX512VL__)
  TRAINER_REQUIRE("avx512vl")
#endif
#if defined(__AVX512IFMA__)
  TRAINER_REQUIRE("avx512ifma")
#endif
#if defined(__AVX512VBMI__)
  TRAINER_REQUIRE("avx512vbmi")
#endif
#if defined(__AVX512VBMI2__)
  TRAINER_REQUIRE("avx512vbmi2")
#endif
#if defined(__AVX512VNNI__)
  TRAINER_REQUIRE("avx512vnni")
#endif
#if defined(__AVX512BITALG__)
  TRAINER_REQUIRE("avx512bitalg")
#endif
#if defined(__AVX512VPOPCNTDQ__)
  TRAINER_REQUIRE("avx512vpopcntdq")
#endif
#if defined(__AVX512BF16__)
  TRAINER_REQUIRE("avx512bf16")
#endif
#if defined(__AVX512FP16__)
  TRAINER_REQUIRE("avx512fp16")
#endif
#if defined(__AVXVNNI__)
  TRAINER_REQUIRE("avxvnni")
#endif
#if defined(__GFNI__)
  TRAINER_REQUIRE("gfni")
#endif
#if defined(__VPCLMULQDQ__)
  TRAINER_REQUIRE("vpclmulqdq")
#endif
#elif defined(__aarch64__)
  const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  const auto has = [](unsigned long word, int bit) { return (word >> bit & 1UL) != 0; };
  (void)first;
  (void)second;
  (void)has;
  // The bits are Linux's, arch/arm64/include/uapi/asm/hwcap.h.
#if defined(__ARM_FEATURE_ATOMICS)
  if (!has(first, 8)) return "atomics";
#endif
#if defined(__ARM_FEATURE_CRC32)
  if (!has(first, 7)) return "crc32";
#endif
#if defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC)
  if (!has(first, 10)) return "asimdhp";
#endif
#if defined(__ARM_FEATURE_DOTPROD)
  if (!has(first, 20)) return "asimddp";
#endif
#if defined(__ARM_FEATURE_SVE)
  if (!has(first, 22)) return "sve";
#endif
#if defined(__ARM_FEATURE_SVE2)
  if (!has(second, 1)) return "sve2";
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)
  if (!has(second, 13)) return "i8mm";
#endif
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  if (!has(second, 14)) return "bf16";
#endif
#endif
#undef TRAINER_REQUIRE
  return nullptr;
}

}  // namespace trainer
