#include "cosine_logits-inl.h"
