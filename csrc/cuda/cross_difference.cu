// cross_difference on a GPU: the two element-wise functions of cpu/cross_difference.cpp, through elementwise_cuda.h.
#include "../cpu/cross_difference.cpp"
