#include "hebb_logits-inl.h"
