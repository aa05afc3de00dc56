// exp of numbers in `omp simd` loops, and of whole vectors: branch-free.
#pragma once
#include <cmath>

#include "vector-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// 2^n for n from -126 to 127; any number, without overflow, where x is NaN.
template <class F>
inline F power_of_two(BitsOf<F> n) {
  return bits_as<F>((UnsignedBitsOf<F>)(n + 127) << 23);
}

// Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
constexpr float kRounding = 12582912.0f;

// e^(x - n ln 2) for |x - n ln 2| <= ln 2 / 2.
template <class F>
inline F power_of_rest(F x, F n) {
  const F r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  F p = F{} + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return p * (r * r) + r + 1.0f;
}

// Relative error below 2e-7 on [-87.3, 88.7]; 0 below (where floats turn subnormal), NaN for NaN.
// x = n ln 2 + r with |r| <= ln 2 / 2: 2^n goes into the exponent bits, e^r is a polynomial.
template <class F>
inline F exp_of_floats(F x) {
  using Bits = BitsOf<F>;
  const F low = F{} - 87.33654f, high = F{} + 88.72283f;
  const F clamped = x < low ? low : (x > high ? high : x);
  const F shifted = clamped * 1.44269504f + kRounding;
  const F p = power_of_rest<F>(clamped, shifted - kRounding);
  // 2^n in two factors, since n may be 128 where p is just below 1.
  const Bits exponent = bits_as<Bits>(shifted) - 0x4b400000;
  const Bits half = exponent >> 1;
  const F result = p * power_of_two<F>(half) * power_of_two<F>(exponent - half);
  return x < low ? F{} : result;
}

// The same bits as exp_of(-|x|), for less: 2^n is one factor, and its bits are those of n with 127
// in the rounding already.
inline Vector<float> exp_of_minus_size(Vector<float> x) {
  using F = Vector<float>;
  const F minus = bits_as<F>(bits_as<UnsignedBitsOf<F>>(x) | 0x80000000u);
  const F shifted = minus * 1.44269504f + (kRounding + 127.0f);
  const F p = power_of_rest<F>(minus, shifted - (kRounding + 127.0f));
  const F result = p * bits_as<F>(bits_as<UnsignedBitsOf<F>>(shifted) << 23);
  return minus < -87.33654f ? F{} : result;
}

inline float exp_of(float x) { return exp_of_floats(x); }
inline Vector<float> exp_of(Vector<float> x) { return exp_of_floats(x); }
inline double exp_of(double x) { return std::exp(x); }
inline Vector<double> exp_of(Vector<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}
inline Vector<double> exp_of_minus_size(Vector<double> x) {
  return exp_of(x < Vector<double>{} ? x : -x);
}

}  // namespace clfast::cpu::CLFAST_LEVEL
