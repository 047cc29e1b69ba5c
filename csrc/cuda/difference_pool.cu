// difference_pool on a GPU: the launchers of cpu/difference_pool.cpp, with the kernels of difference_cuda.h.
#include "../cpu/difference_pool.cpp"
