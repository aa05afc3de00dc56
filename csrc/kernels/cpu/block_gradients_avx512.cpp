#include "block_gradients-inl.h"
