// elementwise<kInputs, T>(views, f, on): one pass over operands of equal size, for the device this file is compiled for.
// An operator that is element-wise is written once, in <op>.cpp; its <op>.cu includes that file.
#pragma once

#if defined(__CUDACC__) || defined(FASTIQA_EMULATE)
#include "passes/elementwise/cuda.h"
#else
#include "passes/elementwise/cpu.h"
#endif
