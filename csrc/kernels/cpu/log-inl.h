// log of numbers in `omp simd` loops, and of whole vectors: branch-free.
#pragma once
#include <cmath>

#include "vector-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// Absolute error below 1e-7 (1 + |log x|) for finite x from 1.18e-38 on, where floats stop being
// subnormal; NaN for NaN. x = 2^n (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)).
template <class F>
inline F log_of_floats(F x) {
  using Bits = BitsOf<F>;
  const Bits bits = bits_as<Bits>(x);
  const Bits exponent = (bits - 0x3f3504f3) >> 23;
  const F f = bits_as<F>(bits - exponent * (1 << 23)) - 1.0f;
  const F n = as_floats(exponent);
  F p = F{} + 7.0376836292e-2f;
  p = p * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  const F square = f * f;
  const F low = p * f * square - n * 2.12194440e-4f - 0.5f * square;
  return x == x ? f + low + n * 0.693359375f : x;
}

inline float log_of(float x) { return log_of_floats(x); }
inline Vector<float> log_of(Vector<float> x) { return log_of_floats(x); }
inline double log_of(double x) { return std::log(x); }
inline Vector<double> log_of(Vector<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::log(x[i]);
  return x;
}

}  // namespace clfast::cpu::CLFAST_LEVEL
