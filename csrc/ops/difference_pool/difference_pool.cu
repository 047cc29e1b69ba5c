// difference_pool on a GPU: the launchers of difference_pool.cpp, with the kernels of passes/difference/cuda.h.
#include "difference_pool.cpp"
