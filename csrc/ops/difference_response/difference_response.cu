// difference_response on a GPU: the launchers of difference_response.cpp, with the kernels of passes/difference/cuda.h.
#include "difference_response.cpp"
