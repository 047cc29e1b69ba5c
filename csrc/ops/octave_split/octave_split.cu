// octave_split on a GPU: the two block functions of octave_split.cpp, through passes/blocks/cuda.h.
#include "octave_split.cpp"
