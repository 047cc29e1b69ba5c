// The trilinear form of difference_response and its three derivatives, for the device this file is compiled for.
//
//   sum over samples n, outputs o, taps t, sides s (a, b), channels c, pixels q of
//   map[n][o][q - shift(t)] * weight[n][o][s][c][t] * d_s[n][c][q],       d_s = ref - s,  shift(t) = t - size / 2
//
//   difference_sums       by map:      reads ref, a, b, weight, bias
//   difference_products   by weight:   reads ref, a, b, map
//   difference_spread     by ref, a, b: reads map, weight
//
// An output and a tap together are a row: outputs * taps rows, tap innermost.
#pragma once

#if defined(__CUDACC__) || defined(FASTIQA_EMULATE)
#include "passes/difference/cuda.h"
#else
#include "passes/difference/cpu.h"
#endif
