#include "rows-inl.h"
