// scale_residual_relu on a GPU: the functions of cpu/scale_residual_relu.cpp, through channelwise_cuda.h.
#include "../cpu/scale_residual_relu.cpp"
