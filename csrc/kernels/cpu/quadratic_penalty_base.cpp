#include "quadratic_penalty-inl.h"
