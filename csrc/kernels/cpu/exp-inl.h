// exp for loops over lanes: branch-free, so that `omp simd` loops vectorise.
#pragma once
#include <cmath>

#include "vector-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// Relative error below 2e-7 on [-87.3, 88.7]; 0 below (where floats turn subnormal), NaN for NaN.
// x = n ln 2 + r with |r| <= ln 2 / 2: 2^n goes into the exponent bits, e^r is a polynomial.
inline float exp_of(float x) {
  const float low = -87.33654f;
  const float clamped = x < low ? low : (x > 88.72283f ? 88.72283f : x);
  // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
  const float shifted = clamped * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // 2^n in two factors, since n may be 128 where p is just below 1.
  uint32_t bits;
  memcpy(&bits, &shifted, sizeof bits);
  const int32_t exponent = static_cast<int32_t>(bits - 0x4b400000u);
  const int32_t half = exponent >> 1;
  const float result = p * float_from_bits(static_cast<uint32_t>(half + 127) << 23) *
                       float_from_bits(static_cast<uint32_t>(exponent - half + 127) << 23);
  return x < low ? 0.0f : result;
}

inline double exp_of(double x) { return std::exp(x); }

}  // namespace clfast::cpu::CLFAST_LEVEL
