#include "softmax_descent-inl.h"
