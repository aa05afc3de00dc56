#include "herding-inl.h"
