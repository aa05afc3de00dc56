#include "masked_step-inl.h"
