#include "image_prior-inl.h"
