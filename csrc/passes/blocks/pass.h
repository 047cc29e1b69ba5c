// blocks<Maps<...>, T>(views, f, on): one pass over the 2x2 blocks of maps, for the device this file is compiled for.
//
//   fine     maps of full size (N, C, H, W)
//   coarse   maps with one value a block (N, C, ceil(H/2), ceil(W/2)); blocks at odd borders have one row or column
//
// `views` holds fine inputs, coarse inputs, fine outputs, coarse outputs, as many of each as Maps says. The operator is
// a functor in the accumulation type, f(in, out, share): in.fine[k] are the block's four pixels, row by row, with zeros
// where there is no pixel; in.coarse[k] its value in a coarse map; `out` likewise; share is 1 / pixels that exist.
#pragma once

#if defined(__CUDACC__) || defined(FASTIQA_EMULATE)
#include "passes/blocks/cuda.h"
#else
#include "passes/blocks/cpu.h"
#endif
