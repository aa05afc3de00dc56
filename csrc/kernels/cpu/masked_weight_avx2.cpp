#include "masked_weight-inl.h"
