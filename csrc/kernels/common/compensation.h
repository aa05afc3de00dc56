// HAT's compensation of embedding gradients, of numbers and of vectors F of them.
//
// The gradient g has come through sigmoid'(x), x = scale e, and is wanted through sigmoid'(e):
// times max_scale / scale (cosh x + 1) / (cosh e + 1), where cosh x + 1 = 2 cosh^2(x / 2). Of the
// sizes of x and e let a be the larger and b the smaller:
// cosh(a / 2) / cosh(b / 2) = (1 + decay fall^2) / (fall (1 + decay)), with decay = e^-b and
// fall = e^-(a - b)/2.
#pragma once
#include "host_device.h"

namespace clfast {

// (a - b) / 2, but no more than two factors of which raise all but the smallest numbers above the
// largest. x and e are sizes, here and below.
template <class T, class F>
CLFAST_HD F half_gap(F x, F e) {
  const F most = F{} + (sizeof(T) == sizeof(float) ? T(87.3) : T(708));
  const F half = (x < e ? e - x : x - e) * T(0.5);
  return half > most ? most : half;
}

// What is beyond `largest`, in either direction, becomes that number.
template <class T, class F>
CLFAST_HD F compensated(F g, F x, F e, F decay, F fall, T factor, T largest) {
  const F one = F{} + 1, most = F{} + largest;
  const F least = F{} + T(1e-10),
          seen = fall > least ? fall : least;  // its square is not subnormal
  const F of_larger = one + decay * (seen * seen), of_smaller = fall * (one + decay);
  const F ratio = (x < e ? of_smaller : of_larger) / (x < e ? of_larger : of_smaller);
  const F product = g * ratio * factor * ratio;
  const F below = product > most ? most : product;
  return below < -most ? -most : below;
}

}  // namespace clfast
