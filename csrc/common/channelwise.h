// channelwise<kInputs, T>(maps, value, f, on) and channelwise_sum<kInputs, T>(maps, value, sum, f, on): one pass over
// feature maps of equal size in which every channel of every sample has a value of its own, and may have a sum.
//
//   maps     kInputs inputs, then the outputs: (N, C, H, W), any strides
//   value    (N, C, 1, 1) input: gates, scales, shifts; f.prepare(value), if f has it, is computed before the pass, once
//            a channel where memory order allows, so it may cost what a sigmoid costs
//   sum      (N, C, 1, 1) output: the sum over H, W of what f returned; f.finish(value, sum) if f has it
//
// f is written once for both devices, in the accumulation type A:
//
//   A prepare(A value) const
//   A operator()(const A (&x)[kInputs], A prepared, A (&y)[outputs]) const      returns the term of the sum, or void
//   A finish(A value, A sum) const                                              channelwise_sum alone
//
// Sums use no atomics and their order depends on sizes and layout alone, not on the number of threads: partial sums of
// fixed blocks of pixels are added in order.
#pragma once

#if defined(__CUDACC__) || defined(FASTIQA_EMULATE)
#include "channelwise_cuda.h"
#else
#include "channelwise_cpu.h"
#endif
