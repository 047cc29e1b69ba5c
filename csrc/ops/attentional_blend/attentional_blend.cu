// attentional_blend on a GPU: the functions of attentional_blend.cpp, through passes/channelwise/cuda.h.
#include "attentional_blend.cpp"
