// batch_norm_act on a GPU: the functions of cpu/batch_norm_act.cpp, through channelwise_cuda.h.
#include "../cpu/batch_norm_act.cpp"
