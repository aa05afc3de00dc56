#include "soft_cross_entropy-inl.h"
