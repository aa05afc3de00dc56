#include "mbpa_update-inl.h"
