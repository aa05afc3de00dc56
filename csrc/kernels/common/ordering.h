// Distances as integers that order like them.
#pragma once
#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace clfast {

// Distances are >= 0 or NaN, and the bits of a float >= 0 order as an integer. Every NaN becomes
// the one quiet NaN, which comes behind infinity.
CLFAST_HD uint32_t order_of(float distance) {
  uint32_t bits = 0x7fc00000u;
  if (distance == distance) memcpy(&bits, &distance, sizeof bits);
  return bits;
}
CLFAST_HD uint64_t order_of(double distance) {
  uint64_t bits = 0x7ff8000000000000u;
  if (distance == distance) memcpy(&bits, &distance, sizeof bits);
  return bits;
}

CLFAST_HD float distance_of(uint32_t order) {
  float distance;
  memcpy(&distance, &order, sizeof distance);
  return distance;
}
CLFAST_HD double distance_of(uint64_t order) {
  double distance;
  memcpy(&distance, &order, sizeof distance);
  return distance;
}

}  // namespace clfast
