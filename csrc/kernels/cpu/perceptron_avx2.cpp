#include "perceptron-inl.h"
