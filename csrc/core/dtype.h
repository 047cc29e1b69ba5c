// Element types and their conversions.
//
// float64 and float32 are C++'s own. The two 16-bit types are held as bits; widening to float32 is exact, narrowing
// rounds to nearest even, NaN stays NaN. On the host the conversions are integer arithmetic and selects, which GCC
// vectorises in every clone (its own _Float16 conversions stay scalar even with F16C); on the device they are the
// hardware's instructions.
#pragma once

#include <bit>
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define FASTIQA_HD __host__ __device__ __forceinline__
#else
#define FASTIQA_HD inline __attribute__((always_inline))
#endif

// GCC for x86-64, which makes several clones of a function and knows the intrinsics of each.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FASTIQA_X86
#endif

namespace fastiqa {

enum class Dtype { float64, float32, bfloat16, float16 };
constexpr Dtype kDtypes[] = {Dtype::float64, Dtype::float32, Dtype::bfloat16, Dtype::float16};
constexpr const char* kDtypeNames[] = {"float64", "float32", "bfloat16", "float16"};

struct bfloat16 {
  uint16_t bits;
};

struct float16 {
  uint16_t bits;
};

/// float64 accumulates in float64, everything else in float32.
template <class T>
struct accumulator {
  using type = float;
};
template <>
struct accumulator<double> {
  using type = double;
};
template <class T>
using accumulator_t = typename accumulator<T>::type;

FASTIQA_HD double widen(double x) { return x; }
FASTIQA_HD float widen(float x) { return x; }

FASTIQA_HD float widen(bfloat16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

FASTIQA_HD float widen(float16 x) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(x.bits));
#else
  const uint32_t exponent = (x.bits & 0x7c00u) << 13;
  uint32_t value = ((x.bits & 0x7fffu) << 13) + ((127u - 15u) << 23);
  value += exponent == (0x7c00u << 13) ? (128u - 16u) << 23 : 0u;  // infinities and NaN
  // Zero and subnormals: an implied leading one is put in and subtracted again.
  const float subnormal = std::bit_cast<float>(value + (1u << 23)) - std::bit_cast<float>(113u << 23);
  value = exponent == 0 ? std::bit_cast<uint32_t>(subnormal) : value;
  return std::bit_cast<float>(value | (x.bits & 0x8000u) << 16);
#endif
}

template <class T>
FASTIQA_HD T narrow(accumulator_t<T> x) {
  return x;
}

template <>
FASTIQA_HD bfloat16 narrow<bfloat16>(float x) {
#if defined(__CUDA_ARCH__)
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
  const uint32_t u = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = u + 0x7fffu + (u >> 16 & 1u);
  return {static_cast<uint16_t>((x != x ? 0x7fc00000u : rounded) >> 16)};
#endif
}

template <>
FASTIQA_HD float16 narrow<float16>(float x) {
#if defined(__CUDA_ARCH__)
  return {__half_as_ushort(__float2half_rn(x))};
#else
  const uint32_t sign = std::bit_cast<uint32_t>(x) & 0x80000000u;
  const uint32_t magnitude = std::bit_cast<uint32_t>(x) ^ sign;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;  // NaN, else infinity
  // Below 2^-14 one float addition aligns the mantissa at the subnormal's position and rounds it.
  constexpr uint32_t align = ((127u - 15u) + (23u - 10u) + 1u) << 23;
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + std::bit_cast<float>(align)) - align;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  const uint32_t finite = magnitude < (113u << 23) ? subnormal : normal;
  // 65520 is the first value that rounds to infinity.
  return {static_cast<uint16_t>((magnitude >= 0x477ff000u ? special : finite) | sign >> 16)};
#endif
}

}  // namespace fastiqa
