// cross_difference on a GPU: the two element-wise functions of cross_difference.cpp, through passes/elementwise/cuda.h.
#include "cross_difference.cpp"
