// octave_merge on a GPU: the two block functions of cpu/octave_merge.cpp, through blocks_cuda.h.
#include "../cpu/octave_merge.cpp"
