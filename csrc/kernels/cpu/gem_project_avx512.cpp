#include "gem_project-inl.h"
