// scale_residual_relu on a GPU: the functions of scale_residual_relu.cpp, through passes/channelwise/cuda.h.
#include "scale_residual_relu.cpp"
