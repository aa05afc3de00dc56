#include "mixture_log_probs-inl.h"
