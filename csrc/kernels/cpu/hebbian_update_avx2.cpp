#include "hebbian_update-inl.h"
