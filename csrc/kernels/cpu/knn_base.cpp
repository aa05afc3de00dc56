#include "knn-inl.h"
