// channelwise.h on the CPU.
//
// By planes (NCHW) a run is pixels of one channel, so each of its values is one number; by pixels (channels-last) a run
// is the channels of a pixel, or of several neighbouring pixels where there are few, beside rows of prepared values of
// the same length. Either way sums are accumulated element by element in a row of partial sums that stays in the first-level
// cache, which GCC vectorises as it does any element-wise loop. A partial sum has 16 terms, so that float32 suffices
// (partial sums in float64 took up to 1.5 times as long); they are added up, and exact sums handed over, in float64.
#pragma once

#include <vector>

#include "passes/channelwise/runs_cpu.h"
#include "passes/channelwise/walk.h"
#include "core/scratch.h"

namespace fastiqa {

// Elements a task, which is the unit of work and of sums: of small maps fewer, so that threads have equal shares.
constexpr int64_t kLeastElements = kLanes * kTerms, kMostElements = 4 * kLeastElements, kTasks = 64;

/// Values to prepared values, in place: value k of channel i is at channel[k * count + i].
template <int kValues, class A, class F>
FASTIQA_CLONES void prepare_channels(A* channel, int64_t count, F f) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    A value[kValues];
    for (int k = 0; k < kValues; ++k) value[k] = channel[k * count + i];
    f.prepare(value);
    for (int k = 0; k < kValues; ++k) channel[k * count + i] = value[k];
  }
}

/// Sums to what they stand for, in place; laid out as prepare_channels' values.
template <int kValues, int kSums, class F>
FASTIQA_CLONES void finish_channels(const double* values, double* sums, int64_t count, F f) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    double value[kValues], sum[kSums];
    for (int k = 0; k < kValues; ++k) value[k] = values[k * count + i];
    for (int k = 0; k < kSums; ++k) sum[k] = sums[k * count + i];
    f.finish(value, sum);
    for (int k = 0; k < kSums; ++k) sums[k * count + i] = sum[k];
  }
}

/// Calls visit(element, k, i, j) for what channel j of sample i has in views[k].
template <class V, size_t kCount, class F>
void each_value(const Views<V, kCount>& operands, int64_t n, int64_t c, F visit) {
  for (size_t k = 0; k < kCount; ++k) {
    const View& view = operands.view[k];
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < c; ++j)
        visit(static_cast<V*>(view.data)[i * view.strides[0] + j * view.strides[1]], k, i, j);
  }
}

template <int kInputs, class T, size_t kMaps, class V, size_t kValues, class S, size_t kSums, class F>
void channel_pass(const Views<T, kMaps>& maps, const Views<V, kValues>& values, const Views<S, kSums>& sums,
                  F f) {
  using A = accumulator_t<T>;
  const Pass<kInputs, int{kMaps}, int{kValues}, int{kSums}, F> pass{f};
  const auto walk = make_channel_walk(maps.view, kInputs);
  const bool by_pixels = walk.by_pixels, unit = walk.unit_stride();
  const int64_t n = walk.n, c = walk.c, pixels = walk.h * walk.w;

  std::vector<A> prepared(kValues * n * c);
  each_value(values, n, c,
             [&](const V& element, size_t k, int64_t i, int64_t j) { prepared[(k * n + i) * c + j] = widen(element); });
  if constexpr (requires(A (&value)[kValues]) { f.prepare(value); })
    prepare_channels<int{kValues}>(prepared.data(), n * c, f);

  // A task is `width` channels of a block of pixels of one sample. By pixels a run is `step` pixels.
  bool dense = by_pixels && unit;
  for (size_t o = 0; o < kMaps; ++o) dense = dense && walk.stride[o][3] == c;
  const int64_t elements = std::clamp(n * c * pixels / kTasks, kLeastElements, kMostElements);
  const int64_t planes = std::max(int64_t{1}, elements / 2 / pixels);
  const int64_t width = std::min(c, by_pixels ? kLanes : planes), slices = (c + width - 1) / width;
  const int64_t step = dense ? kLanes / width : 1;
  const int64_t block = by_pixels ? elements / width / step * step : elements;
  const int64_t blocks = (pixels + block - 1) / block;
  std::vector<double> partial(kSums * n * blocks * c);

  const int64_t results = n * c * pixels * static_cast<int64_t>(kMaps - kInputs) * static_cast<int64_t>(sizeof(T));
  const bool streamed = unit && streams(results, (by_pixels ? step * width : std::min(pixels, kLanes)) * sizeof(T));
  const int64_t grain = std::max(int64_t{1}, kGrain / (std::min(block, pixels) * width));
  parallel_for(0, n * slices * blocks, grain, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      // Neighbouring tasks are neighbours in memory.
      const int64_t slice = by_pixels ? task % slices : task / blocks % slices;
      const int64_t b = by_pixels ? task / slices % blocks : task % blocks, i = task / slices / blocks;
      const int64_t c0 = slice * width, channels = std::min(width, c - c0);
      const int64_t begin = b * block, end = std::min(pixels, begin + block);

      Rows<const A, int{kValues}> channel{};
      Rows<double, int{kSums}> totals{};
      A of_run[kValues][kLanes];
      double of_lanes[at_least_one(kSums)][kSums > 0 ? kLanes : 1] = {};
      for (size_t k = 0; k < kValues; ++k) {
        channel[k] = &prepared[(k * n + i) * c + c0];
        if (step == 1) continue;
        for (int64_t j = 0; j < step; ++j) std::copy_n(channel[k], channels, of_run[k] + j * channels);
        channel[k] = of_run[k];
      }
      const auto of_block = [&](size_t k) { return &partial[((k * n + i) * blocks + b) * c + c0]; };
      for (size_t k = 0; k < kSums; ++k) totals[k] = step == 1 ? of_block(k) : of_lanes[k];

      for (int64_t pixel = begin; pixel < end;) {
        const int64_t y = pixel / walk.w, x = pixel % walk.w, left = std::min(end - pixel, walk.w - x);
        const int64_t wide = std::min(left, by_pixels ? step : kLanes * kTerms);  // pixels a run
        Tile<T, int{kMaps}> tile;
        tile.rows = by_pixels ? std::min(left / wide, kTerms) : channels;
        tile.length = by_pixels ? wide * channels : wide;
        for (size_t o = 0; o < kMaps; ++o) {
          const auto& stride = walk.stride[o];
          tile.data[o] =
              static_cast<T*>(maps.view[o].data) + i * stride[0] + c0 * stride[1] + y * stride[2] + x * stride[3];
          tile.row_stride[o] = by_pixels ? wide * stride[3] : stride[1];
          tile.stride[o] = walk.inner(o);
        }
        pixel += by_pixels ? tile.rows * wide : wide;
        if (unit)
          by_pixels ? channel_tile<true>(tile, streamed, channel, totals, pass)
                    : channel_tile<false>(tile, streamed, channel, totals, pass);
        else
          by_pixels ? pixel_runs<false>(tile, false, channel, totals, pass)
                    : plane_runs<false>(tile, false, channel, totals, pass);
      }

      if (step > 1)
        for (size_t k = 0; k < kSums; ++k)
          for (int64_t j = 0; j < step; ++j)
            for (int64_t l = 0; l < channels; ++l) of_block(k)[l] += of_lanes[k][j * channels + l];
    }
    if (streamed) end_stream();
  });

  if constexpr (kSums > 0) {
    std::vector<double> total(kSums * n * c);
    for (size_t ki = 0; ki < kSums * n; ++ki)
      for (int64_t b = 0; b < blocks; ++b)
        for (int64_t j = 0; j < c; ++j) total[ki * c + j] += partial[(ki * blocks + b) * c + j];
    if constexpr (requires(double (&value)[kValues], double (&sum)[kSums]) { f.finish(value, sum); }) {
      std::vector<double> given(kValues * n * c);
      each_value(values, n, c, [&](const V& element, size_t k, int64_t i, int64_t j) {
        given[(k * n + i) * c + j] = widen(element);
      });
      finish_channels<int{kValues}, int{kSums}>(given.data(), total.data(), n * c, f);
    }
    each_value(sums, n, c, [&](S& element, size_t k, int64_t i, int64_t j) {
      element = narrow<S>(static_cast<accumulator_t<S>>(total[(k * n + i) * c + j]));
    });
  }
}

template <int kInputs, class T, size_t kMaps, class V, size_t kValues, class F>
void channelwise(const Views<T, kMaps>& maps, const Views<V, kValues>& values, F f, const Tensor&) {
  channel_pass<kInputs>(maps, values, Views<V, 0>{}, f);
}

template <int kInputs, class T, size_t kMaps, class V, size_t kValues, class S, size_t kSums, class F>
void channelwise_sum(const Views<T, kMaps>& maps, const Views<V, kValues>& values,
                     const Views<S, kSums>& sums, F f, const Tensor&) {
  channel_pass<kInputs>(maps, values, sums, f);
}

template <class F>
void each_channel(int64_t count, F f, const Tensor&) {
  for (int64_t c = 0; c < count; ++c) f(c);
}

}  // namespace fastiqa
