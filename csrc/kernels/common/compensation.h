// HAT's compensation of embedding gradients, of numbers and of vectors F of them.
//
// The gradient g has come through sigmoid'(x), x = scale e, and is wanted through sigmoid'(e):
// times max_scale / scale (cosh x + 1) / (cosh e + 1), where cosh x + 1 = e^|x| (1 + e^-|x|)^2 / 2.
#pragma once
#include "host_device.h"

namespace clfast {

// Half the logarithm of e^(|x| - |e|): g e^(|x| - |e|) may be of ordinary size where the power is
// not. Two factors of e^87.7 (e^708.7) raise any number above the largest.
template <class T, class F>
CLFAST_HD F half_exponent(F x, F e) {
  const F most = F{} + (sizeof(T) == sizeof(float) ? T(87.7) : T(708.7));
  const F half = (x - e) * T(0.5);
  return half > most ? most : half;
}

// half = exp(half_exponent), decays = exp(-|x|), exp(-|e|). What is beyond `largest`, in either
// direction, becomes that number.
template <class T, class F>
CLFAST_HD F compensated(F g, F half, F decay_of_x, F decay_of_e, T factor, T largest) {
  const F one = F{} + 1, most = F{} + largest;
  const F ratio = (one + decay_of_x) / (one + decay_of_e);
  const F product = g * half * (factor * ratio * ratio) * half;
  const F below = product > most ? most : product;
  return below < -most ? -most : below;
}

}  // namespace clfast
