// What a thread of channelwise_cuda.h does with the packs of its maps and the values of their channels.
#pragma once

#include "passes/channelwise/maps_cuda.h"
#include "passes/elementwise/cuda.h"
#include "passes/channelwise/exact_sum_cuda.h"

namespace fastiqa {

constexpr int kWarp = 32;
/// Blocks an SM of the kernels with sums: 64 registers a thread, where nvcc would take 80; seven maps would spill, and so
/// would what the roundings of exact sums lost.
template <int kMaps, class F>
constexpr int kBlocksAnSM = kExactSums<F> ? 2 : kMaps < 7 ? 4 : 3;
/// Of pixel_sum_kernel with seven maps in packs of eight: three spill up to 40 bytes on Ampere and Hopper.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 1000
constexpr int kBlocksOfSeven = 2;
#else
constexpr int kBlocksOfSeven = 3;
#endif
/// Steps of a loop that are loaded before the first is computed, where no store stands between them: the few warps that
/// exact sums leave an SM would ask too little of memory with one.
template <int kInputs, int kMaps, int kPack>
constexpr int kAhead = kMaps > kInputs ? 1 : kPack > 1 ? 2 : 4;
constexpr int kPlaneLanes = 4;  // sums of each kind that a thread keeps of a plane; eight of seven maps spill
constexpr int kPixelsAThread = 32;  // terms of a thread's sum by pixels; the second kernel reads a float for so many

/// What a thread adds up in.
template <class A, class F>
using running_t = std::conditional_t<kExactSums<F>, exact_t<A>, Plain<A>>;

/// The maps' packs at one place, with f applied to them, and its terms added to sums, by turns where these are fewer.
template <int kInputs, int kPack, class T, int kMaps, class V, int kValues, class S, int kSums, class F, class A,
          class R, int kLanes>
__device__ void channel_packs(const ChannelMaps<T, kMaps, V, kValues, S, kSums>& maps, int64_t n, int64_t c, int64_t y,
                              int64_t x, const A (&prepared)[kPack][kValues], const F& f,
                              R (&sums)[at_least_one(kSums)][kLanes]) {
  T* at[kMaps];
#pragma unroll
  for (int o = 0; o < kMaps; ++o) {
    const auto& stride = maps.walk.stride[o];
    at[o] = maps.data[o] + n * stride[0] + c * stride[1] + y * stride[2] + x * stride[3];
  }
  Pack<T, kPack> in[kInputs], out[at_least_one(kMaps - kInputs)];
#pragma unroll
  for (int o = 0; o < kInputs; ++o) in[o] = Pack<T, kPack>::load(at[o]);
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    A x[kInputs], y[at_least_one(kMaps - kInputs)], term[at_least_one(kSums)];
#pragma unroll
    for (int o = 0; o < kInputs; ++o) x[o] = widen(in[o].element[k]);
    if constexpr (kSums > 0)
      f(x, prepared[k], y, term);
    else
      f(x, prepared[k], y);
#pragma unroll
    for (int s = 0; s < kSums; ++s) sums[s][k % kLanes] += term[s];
#pragma unroll
    for (int o = kInputs; o < kMaps; ++o) out[o - kInputs].element[k] = narrow<T>(y[o - kInputs]);
  }
#pragma unroll
  for (int o = kInputs; o < kMaps; ++o) out[o - kInputs].store(at[o]);
}

/// Prepared values of kPack channels of a pixel, or of the one channel of kPack pixels.
template <int kPack, bool kByPixels, class Maps, class V, int kValues, class F, class A>
__device__ void prepare_channels(const Maps& maps, const V* const (&value)[kValues], int64_t n, int64_t c, const F& f,
                                 A (&prepared)[kPack][kValues]) {
  constexpr int kWide = std::min<int>(kPack, 16 / sizeof(V));  // values in 16 bytes
#pragma unroll
  for (int v = 0; v < kValues; ++v) {
    const V* from = value[v] + n * maps.value_stride[v][0] + c * maps.value_stride[v][1];
#pragma unroll
    for (int k = 0; k < kPack; k += kWide) {
      if constexpr (kByPixels) {
        const auto values = Pack<V, kWide>::load(from + k);
#pragma unroll
        for (int j = 0; j < kWide; ++j) prepared[k + j][v] = widen(values.element[j]);
      } else {
#pragma unroll
        for (int j = 0; j < kWide; ++j) prepared[k + j][v] = widen(*from);
      }
    }
  }
  if constexpr (requires { f.prepare(prepared[0]); }) {
    f.prepare(prepared[0]);
#pragma unroll
    for (int k = 1; k < kPack; ++k) {
      if constexpr (kByPixels) f.prepare(prepared[k]);
    }
  }
  if constexpr (!kByPixels) {
#pragma unroll
    for (int k = 1; k < kPack; ++k)
#pragma unroll
      for (int v = 0; v < kValues; ++v) prepared[k][v] = prepared[0][v];
  }
}

}  // namespace fastiqa
