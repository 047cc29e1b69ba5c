// octave_merge on a GPU: the two block functions of octave_merge.cpp, through passes/blocks/cuda.h.
#include "octave_merge.cpp"
