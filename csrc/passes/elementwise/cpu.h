// One pass over any number of inputs and outputs of equal size, on the CPU.
//
//   elementwise<kInputs, T>(views, f, on)        f(x, y): y[0..] = function of x[0..], in the accumulation type
//
// Work is split by elements, whatever the nest looks like, so a batch of one fills every thread.
#pragma once

#include <utility>

#include "core/nest.h"
#include "core/simd.h"
#include "core/stream.h"

namespace fastiqa {

/// A run whose elements are neighbours, for outputs [kFirst, kLast).
template <int kInputs, int kFirst, int kLast, class T, int kOperands, class F>
FASTIQA_HD void run(T* const (&p)[kOperands], int64_t length, F f) {
  const auto some = [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) {
      accumulator_t<T> x[kInputs], y[kOperands - kInputs];
      for (int o = 0; o < kInputs; ++o) x[o] = widen(p[o][i]);
      f(x, y);
      for (int o = kFirst; o < kLast; ++o) p[kInputs + o][i] = narrow<T>(y[o]);
    }
  };
  int64_t begin = 0;
  for (; begin + kFetched <= length; begin += kFetched) {
    for (int o = 0; o < kInputs; ++o) fetch_ahead(p[o] + begin);
    for (int o = kFirst; o < kLast; ++o) fetch_ahead(p[kInputs + o] + begin);
    some(begin, begin + kFetched);
  }
  some(begin, length);
}

/// Runs whose elements are neighbours. With kFromMemory, for operands that together exceed the last-level cache, outputs
/// are written one at a time, in blocks of kBlock that keep the inputs in the first-level cache. cross_difference of
/// 16x256x112x112 bfloat16: 6.5 instead of 7.9 ms, channels-last 6.6 instead of 8.6 (float32: 13.2 and 12.8 instead of
/// 13.5 and 13.3); but of 1x64x112x112 bfloat16, in the cache: 73 instead of 64 us.
template <int kInputs, bool kFromMemory, class T, int kOperands, class F>
FASTIQA_CLONES void unit_tile(const Rectangle<T, kOperands>& tile, bool streamed, F f) {
  constexpr int kOutputs = kOperands - kInputs;
  alignas(kLine) T staged[kFromMemory ? kBlock : 1];
  for (int64_t row = 0; row < tile.rows; ++row) {
    T* p[kOperands];
    for (int o = 0; o < kOperands; ++o) p[o] = tile.data[o] + row * tile.row_stride[o];
    if constexpr (kFromMemory) {
      for (int64_t begin = 0; begin < tile.length; begin += kBlock) {
        const int64_t length = std::min(tile.length - begin, kBlock);
        const auto write = [&](auto output) __attribute__((always_inline)) {
          T* const result = p[kInputs + output];
          if (streamed) p[kInputs + output] = staged;
          run<kInputs, output, output + 1>(p, length, f);
          if (streamed) stream(result, staged, length);
          p[kInputs + output] = result;
        };
        [&]<int... kOutput>(std::integer_sequence<int, kOutput...>) __attribute__((always_inline)) {
          (write(std::integral_constant<int, kOutput>()), ...);
        }(std::make_integer_sequence<int, kOutputs>());
        for (int o = 0; o < kOperands; ++o) p[o] += length;
      }
    } else {
      run<kInputs, 0, kOutputs>(p, tile.length, f);
    }
  }
}

/// As unit_tile, for innermost strides other than one: slices along the rows, expanded operands.
template <int kInputs, class T, int kOperands, class F>
FASTIQA_STRIDED void strided_tile(const Rectangle<T, kOperands>& tile, F f) {
  for (int64_t row = 0; row < tile.rows; ++row)
    for (int64_t i = 0; i < tile.length; ++i) {
      accumulator_t<T> x[kInputs], y[kOperands - kInputs];
      const auto at = [&](int o) { return tile.data[o] + row * tile.row_stride[o] + i * tile.stride[o]; };
      for (int o = 0; o < kInputs; ++o) x[o] = widen(*at(o));
      f(x, y);
      for (int o = kInputs; o < kOperands; ++o) *at(o) = narrow<T>(y[o - kInputs]);
    }
}

template <int kInputs, class T, size_t kOperands, class F>
void elementwise(const std::array<View, kOperands>& views, F f, const Tensor&) {
  const auto nest = make_nest(views);
  const bool unit = nest.unit_stride();
  const int64_t bytes = nest.elements() * int64_t{sizeof(T)};
  const bool from_memory = bytes * kOperands > kLastLevelBytes;
  const bool streamed = unit && streams(bytes * (kOperands - kInputs), nest.size[0] * sizeof(T));
  parallel_for(0, nest.elements(), kGrain, [&](int64_t begin, int64_t end) {
    const auto& size = nest.size;
    while (begin < end) {
      const int64_t i0 = begin % size[0], row = begin / size[0];
      const int64_t i1 = row % size[1], i2 = row / size[1] % size[2], i3 = row / size[1] / size[2];
      Rectangle<T, kOperands> tile;
      for (size_t o = 0; o < kOperands; ++o) {
        const auto& stride = nest.stride[o];
        tile.data[o] = static_cast<T*>(views[o].data) + i0 * stride[0] + i1 * stride[1] + i2 * stride[2] + i3 * stride[3];
        tile.row_stride[o] = stride[1];
        tile.stride[o] = stride[0];
      }
      const bool whole = i0 == 0 && end - begin >= size[0];
      tile.rows = whole ? std::min(size[1] - i1, (end - begin) / size[0]) : 1;
      tile.length = whole ? size[0] : std::min(size[0] - i0, end - begin);
      if (!unit)
        strided_tile<kInputs>(tile, f);
      else if (from_memory)
        unit_tile<kInputs, true>(tile, streamed, f);
      else
        unit_tile<kInputs, false>(tile, false, f);
      begin += tile.rows * tile.length;
    }
    if (streamed) end_stream();
  });
}

}  // namespace fastiqa
