// difference_response on a GPU: the launchers of cpu/difference_response.cpp, with the kernels of difference_cuda.h.
#include "../cpu/difference_response.cpp"
