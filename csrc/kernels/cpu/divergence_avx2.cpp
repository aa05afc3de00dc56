#include "divergence-inl.h"
