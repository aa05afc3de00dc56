#include "recall_gradients-inl.h"
