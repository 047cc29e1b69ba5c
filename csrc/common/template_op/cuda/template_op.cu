// template_op on a GPU: the two element-wise functions of cpu/template_op.cpp, through elementwise_cuda.h.
#include "../cpu/template_op.cpp"
