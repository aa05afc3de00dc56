#include "nearest_class_mean-inl.h"
