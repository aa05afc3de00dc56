#include "bias_correct-inl.h"
