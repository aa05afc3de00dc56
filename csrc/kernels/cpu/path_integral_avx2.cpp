#include "path_integral-inl.h"
