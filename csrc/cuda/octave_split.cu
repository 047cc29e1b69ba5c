// octave_split on a GPU: the two block functions of cpu/octave_split.cpp, through blocks_cuda.h.
#include "../cpu/octave_split.cpp"
