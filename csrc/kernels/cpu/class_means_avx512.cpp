#include "class_means-inl.h"
