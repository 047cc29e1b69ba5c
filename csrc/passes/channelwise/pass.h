// channelwise<kInputs>(maps, values, f, on) and channelwise_sum<kInputs>(maps, values, sums, f, on): one pass over
// feature maps of equal size in which every channel of every sample has values of its own, and may have sums.
//
//   maps     kInputs inputs, then the outputs, if any: (N, C, H, W), any strides, as of<T>(view(x), ...)
//   values   (N, C, 1, 1) inputs: gates, scales, shifts, of one element type; f.prepare, if f has it, is computed before
//            the pass, once a channel where memory order allows, so it may cost what a sigmoid costs
//   sums     (N, C, 1, 1) outputs: the sums over H, W of f's terms; f.finish if f has it turns them into what they stand
//            for
//
// f is written once for both devices, in the accumulation type A of the maps (f.finish on the CPU in float64):
//
//   void prepare(A (&value)[kValues]) const                                                   in place
//   void operator()(const A (&x)[kInputs], const A (&value)[kValues], A (&y)[outputs]) const               channelwise
//   void operator()(const A (&x)[kInputs], const A (&value)[kValues], A (&y)[outputs], A (&term)[kSums]) const
//   void finish(const A (&value)[kValues], A (&sum)[kSums]) const       in place, from values as they were handed over
//
// Where f has `static constexpr bool kExact = true` rounding errors do not add up, and sums are of type exact_t<A>, which
// converts to double: a double, on a GPU a float and what its roundings lost. f has no finish then.
//
// each_channel(count, f, on) calls f(c) for every c below count: for the few numbers per channel between two passes. f may
// compute in double.
//
// Sums use no atomics and their order depends on sizes and layout alone, not on the number of threads: partial sums of
// fixed blocks of pixels are added in order.
#pragma once

#if defined(__CUDACC__) || defined(FASTIQA_EMULATE)
#include "passes/channelwise/cuda.h"
#else
#include "passes/channelwise/cpu.h"
#endif
