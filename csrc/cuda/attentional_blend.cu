// attentional_blend on a GPU: the functions of cpu/attentional_blend.cpp, through channelwise_cuda.h.
#include "../cpu/attentional_blend.cpp"
