#include "knn_small-inl.h"
