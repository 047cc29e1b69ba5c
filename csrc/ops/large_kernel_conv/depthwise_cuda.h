// Depthwise convolutions on a GPU: tiles of a map in shared memory.
//
// A thread computes a column of outputs that lie a dilation apart and share inputs: S + K - 1 loads a column of the kernel
// for K x S multiplications. Channels-last tiles hold several neighbours a pixel.
#pragma once

#include "core/launch.h"
#include "core/pack.h"
#include "core/strided.h"

namespace fastiqa {

constexpr int kRows = 24;  // of a tile: 3 strips of 8 rows at dilation 3
constexpr int kStrip = 8;

struct Size {
  int64_t n, c, h, w;
};

template <class T>
struct Kernel {
  Strided<T> weight, bias;  // no bias where its data is null
  bool turned;              // by half: the adjoint's kernel
};

/// Tap k of channel c.
template <int K, class T>
__device__ accumulator_t<T> tap(const Kernel<T>& kernel, int64_t c, int k) {
  const int at = kernel.turned ? K * K - 1 - k : k;
  return widen(*kernel.weight.at(c, 0, at / K, at % K));
}

/// A tile with `halo` around it, zero outside the map, into shared memory: pixels, their channels side by side.
template <int kHalo, int kColumns, int kChannels, class T, class A>
__device__ void load_tile(const Strided<T>& from, const Size& size, int64_t n, int64_t c0, int64_t y0, int64_t x0, A* to,
                          int threads) {
  constexpr int kWide = (kColumns + 2 * kHalo) * kChannels, kCount = (kRows + 2 * kHalo) * kWide;
  for (int i = static_cast<int>(threadIdx.x); i < kCount; i += threads) {
    const int64_t y = y0 - kHalo + i / kWide, x = x0 - kHalo + i % kWide / kChannels, c = c0 + i % kChannels;
    const bool inside = y >= 0 && y < size.h && x >= 0 && x < size.w && c < size.c;
    to[i] = inside ? widen(*from.at(n, c, y, x)) : A(0);
  }
}

/// K x K sums D apart over a tile of kHigh + 2 kHalf rows; each(row, column, channel, sum) for a tile with halo kHalo.
/// Where one unrolling of the columns spills on some architecture, another does not.
template <int K, int D, int S, int kHalo, int kColumns, int kChannels, int kUnroll = 1, class A, class Each>
__device__ void convolve(const A* in, const A* weight, int threads, Each each) {
  constexpr int kHigh = kRows + 2 * kHalo, kWide = (kColumns + 2 * kHalo) * kChannels;
  constexpr int kInHigh = kHigh + D * (K - 1), kInWide = kWide + D * (K - 1) * kChannels;
  constexpr int kStrips = (kHigh + D * S - 1) / (D * S) * D;
  for (int i = static_cast<int>(threadIdx.x); i < kStrips * kWide; i += threads) {
    const int strip = i / kWide, column = i % kWide, channel = column % kChannels;
    const int first = strip / D * D * S + strip % D;
    A sum[S] = {};
#pragma unroll kUnroll
    for (int kx = 0; kx < K; ++kx) {
      A w[K];
#pragma unroll
      for (int ky = 0; ky < K; ++ky) w[ky] = weight[channel * K * K + ky * K + kx];
#pragma unroll
      for (int m = 0; m < S + K - 1; ++m) {
        const int row = first + D * m;
        const A value = row < kInHigh ? in[row * kInWide + column + D * kx * kChannels] : A(0);
#pragma unroll
        for (int ky = 0; ky < K; ++ky)
          if (m - ky >= 0 && m - ky < S) sum[m - ky] += w[ky] * value;
      }
    }
#pragma unroll
    for (int j = 0; j < S; ++j)
      if (first + D * j < kHigh) each(first + D * j, column / kChannels, channel, sum[j]);
  }
}

template <int K, int kChannels, class T, class A>
__device__ void load_kernel(const Kernel<T>& kernel, const Size& size, int64_t c0, A* weight, int threads) {
  for (int i = static_cast<int>(threadIdx.x); i < kChannels * K * K; i += threads) {
    const int64_t c = c0 + i / (K * K);
    weight[i] = c < size.c ? tap<K>(kernel, c, i % (K * K)) : A(0);
  }
}

template <class T>
__device__ accumulator_t<T> bias_of(const Kernel<T>& kernel, const Size& size, int64_t c) {
  return kernel.bias.data != nullptr && c < size.c ? widen(*kernel.bias.at(c, 0, 0, 0)) : accumulator_t<T>(0);
}

}  // namespace fastiqa
