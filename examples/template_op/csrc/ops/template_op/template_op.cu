// template_op on a GPU: the two element-wise functions of template_op.cpp, through passes/elementwise/cuda.h.
#include "template_op.cpp"
