#include "project_gradients-inl.h"
