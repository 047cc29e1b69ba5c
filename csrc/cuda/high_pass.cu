// high_pass on a GPU: the block function of cpu/high_pass.cpp, through blocks_cuda.h.
#include "../cpu/high_pass.cpp"
