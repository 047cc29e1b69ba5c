// batch_norm_act on a GPU: the functions of batch_norm_act.cpp, through passes/channelwise/cuda.h.
#include "batch_norm_act.cpp"
