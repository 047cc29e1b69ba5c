// high_pass on a GPU: the block function of high_pass.cpp, through passes/blocks/cuda.h.
#include "high_pass.cpp"
