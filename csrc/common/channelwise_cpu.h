// channelwise.h on the CPU.
//
// By planes (NCHW) a run is pixels of one channel, so its value is one number; by pixels (channels-last) a run is the
// channels of a pixel, or of several neighbouring pixels where there are few, beside a row of prepared values of the
// same length. Either way sums are accumulated element by element in a row of partial sums that stays in the first-level
// cache, which GCC vectorises as it does any element-wise loop. A partial sum has 16 terms, so that float32 suffices;
// they are added up in float64.
#pragma once

#include <vector>

#include "channel_walk.h"
#include "elementwise_cpu.h"

namespace fastiqa {

constexpr int64_t kLanes = 512;                 // partial sums at the most; by pixels also elements a run
constexpr int64_t kFold = 16;                   // kLanes is a multiple
constexpr int64_t kTerms = 16;                  // terms of a partial sum
constexpr int64_t kBlockElements = 4 * kLanes * kTerms;  // elements a task: the unit of work and of sums

/// `length` elements of one run, of which element i belongs to channel[i] or, kOne, all to channel[0].
template <int kInputs, bool kSum, bool kOne, bool kUnit, class T, int kMaps, class A, class F>
FASTIQA_HD void channel_run(T* const (&p)[kMaps], const int64_t* stride, int64_t length, const A* channel, A* sums,
                            F f) {
  const A one = channel[0];
#pragma GCC ivdep
  for (int64_t i = 0; i < length; ++i) {
    A x[kInputs], y[kMaps - kInputs];
    for (int o = 0; o < kInputs; ++o) x[o] = widen(p[o][kUnit ? i : i * stride[o]]);
    const A value = kOne ? one : channel[i];
    if constexpr (kSum)
      sums[i] += f(x, value, y);
    else
      f(x, value, y);
    for (int o = kInputs; o < kMaps; ++o) p[o][kUnit ? i : i * stride[o]] = narrow<T>(y[o - kInputs]);
  }
}

/// As channel_run, of up to kLanes elements, whose results may be streamed.
template <int kInputs, bool kSum, bool kOne, bool kUnit, class T, int kMaps, class A, class F>
FASTIQA_HD void channel_part(T* const (&p)[kMaps], const int64_t* stride, int64_t length, bool streamed,
                             const A* channel, A* sums, F f) {
  alignas(kLine) T staged[kUnit ? kMaps - kInputs : 1][kUnit ? kLanes : 1];
  T* to[kMaps];
  for (int o = 0; o < kMaps; ++o) to[o] = kUnit && streamed && o >= kInputs ? staged[o - kInputs] : p[o];
  channel_run<kInputs, kSum, kOne, kUnit>(to, stride, length, channel, sums, f);
  if (kUnit && streamed)
    for (int o = kInputs; o < kMaps; ++o) stream(p[o], staged[o - kInputs], length);
}

/// The sum of a row whose width is a multiple of kFold.
template <class A>
FASTIQA_HD double fold_row(const A* row, int64_t width) {
  double wide[kFold] = {};
  for (int64_t begin = 0; begin < width; begin += kFold)
    for (int i = 0; i < kFold; ++i) wide[i] += row[begin + i];
  for (int half = kFold / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) wide[i] += wide[i + half];
  return wide[0];
}

/// Runs of up to kLanes * kTerms pixels, run r of channel[r], whose sum is added to totals[r].
template <int kInputs, bool kSum, bool kUnit, class T, int kMaps, class F>
FASTIQA_HD void plane_runs(const Tile<T, kMaps>& tile, bool streamed, const accumulator_t<T>* channel, double* totals,
                           F f) {
  accumulator_t<T> lanes[kLanes];
  const int64_t width = (std::min(tile.length, kLanes) + kFold - 1) / kFold * kFold;
  for (int64_t row = 0; row < tile.rows; ++row) {
    T* p[kMaps];
    for (int o = 0; o < kMaps; ++o) p[o] = tile.data[o] + row * tile.row_stride[o];
    if constexpr (kSum) std::fill_n(lanes, width, 0);
    for (int64_t begin = 0; begin < tile.length; begin += kLanes) {
      channel_part<kInputs, kSum, true, kUnit>(p, tile.stride.data(), std::min(kLanes, tile.length - begin), streamed,
                                               &channel[row], lanes, f);
      for (int o = 0; o < kMaps; ++o) p[o] += kLanes * tile.stride[o];
    }
    if constexpr (kSum) totals[row] += fold_row(lanes, width);
  }
}

/// Up to kTerms runs of up to kLanes channels: element i belongs to channel[i] and is added to totals[i].
template <int kInputs, bool kSum, bool kUnit, class T, int kMaps, class F>
FASTIQA_HD void pixel_runs(const Tile<T, kMaps>& tile, bool streamed, const accumulator_t<T>* channel, double* totals,
                           F f) {
  accumulator_t<T> lanes[kLanes];
  if constexpr (kSum) std::fill_n(lanes, tile.length, 0);
  for (int64_t row = 0; row < tile.rows; ++row) {
    T* p[kMaps];
    for (int o = 0; o < kMaps; ++o) p[o] = tile.data[o] + row * tile.row_stride[o];
    channel_part<kInputs, kSum, false, kUnit>(p, tile.stride.data(), tile.length, streamed, channel, lanes, f);
  }
  if constexpr (kSum)
#pragma GCC ivdep
    for (int64_t i = 0; i < tile.length; ++i) totals[i] += lanes[i];
}

template <int kInputs, bool kSum, bool kByPixels, class T, int kMaps, class F>
FASTIQA_CLONES void channel_tile(const Tile<T, kMaps>& tile, bool streamed, const accumulator_t<T>* channel,
                                 double* totals, F f) {
  if constexpr (kByPixels)
    pixel_runs<kInputs, kSum, true>(tile, streamed, channel, totals, f);
  else
    plane_runs<kInputs, kSum, true>(tile, streamed, channel, totals, f);
}

/// Values to prepared values, in place.
template <class A, class F>
FASTIQA_CLONES void prepare_channels(A* channel, int64_t count, F f) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) channel[i] = f.prepare(channel[i]);
}

/// Sums to what they stand for, in place.
template <class F>
FASTIQA_CLONES void finish_channels(const double* values, double* sums, int64_t count, F f) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) sums[i] = f.finish(values[i], sums[i]);
}

template <int kInputs, bool kSum, class T, size_t kMaps, class F>
void channel_pass(const std::array<View, kMaps>& maps, const View& value, [[maybe_unused]] const View& sum, F f) {
  using A = accumulator_t<T>;
  const auto walk = make_channel_walk(maps, kInputs);
  const bool by_pixels = walk.by_pixels, unit = walk.unit_stride();
  const int64_t n = walk.n, c = walk.c, pixels = walk.h * walk.w;

  // Calls visit(element, i, j) for what channel j of sample i has one of.
  const auto each = [n, c](const View& view, auto visit) {
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < c; ++j)
        visit(static_cast<T*>(view.data)[i * view.strides[0] + j * view.strides[1]], i, j);
  };
  std::vector<A> prepared(n * c);
  each(value, [&](const T& element, int64_t i, int64_t j) { prepared[i * c + j] = widen(element); });
  if constexpr (requires { f.prepare(A{}); }) prepare_channels(prepared.data(), n * c, f);

  // A task is `width` channels of a block of pixels of one sample. By pixels a run is `step` pixels.
  bool dense = by_pixels && unit;
  for (size_t o = 0; o < kMaps; ++o) dense = dense && walk.stride[o][3] == c;
  const int64_t planes = std::max(int64_t{1}, kBlockElements / 2 / pixels);
  const int64_t width = std::min(c, by_pixels ? kLanes : planes), slices = (c + width - 1) / width;
  const int64_t step = dense ? kLanes / width : 1;
  const int64_t block = by_pixels ? kBlockElements / width / step * step : kBlockElements;
  const int64_t blocks = (pixels + block - 1) / block;
  std::vector<double> partial(kSum ? n * blocks * c : 0);

  const int64_t results = n * c * pixels * static_cast<int64_t>(kMaps - kInputs) * static_cast<int64_t>(sizeof(T));
  const bool streamed = unit && streams(results, (by_pixels ? step * width : std::min(pixels, kLanes)) * sizeof(T));
  const int64_t grain = std::max(int64_t{1}, kGrain / (std::min(block, pixels) * width));
  torch::stable::parallel_for(0, n * slices * blocks, grain, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      // Neighbouring tasks are neighbours in memory.
      const int64_t slice = by_pixels ? task % slices : task / blocks % slices;
      const int64_t b = by_pixels ? task / slices % blocks : task % blocks, i = task / slices / blocks;
      const int64_t c0 = slice * width, channels = std::min(width, c - c0);
      const int64_t begin = b * block, end = std::min(pixels, begin + block);

      const A* channel = &prepared[i * c + c0];
      double* totals = kSum ? &partial[(i * blocks + b) * c + c0] : nullptr;
      A of_run[kLanes];
      double of_lanes[kLanes] = {};
      if (step > 1) {
        for (int64_t j = 0; j < step; ++j) std::copy_n(channel, channels, of_run + j * channels);
        channel = of_run;
        totals = of_lanes;
      }

      for (int64_t pixel = begin; pixel < end;) {
        const int64_t y = pixel / walk.w, x = pixel % walk.w, left = std::min(end - pixel, walk.w - x);
        const int64_t wide = std::min(left, by_pixels ? step : kLanes * kTerms);  // pixels a run
        Tile<T, kMaps> tile;
        tile.rows = by_pixels ? std::min(left / wide, kTerms) : channels;
        tile.length = by_pixels ? wide * channels : wide;
        for (size_t o = 0; o < kMaps; ++o) {
          const auto& stride = walk.stride[o];
          tile.data[o] = static_cast<T*>(maps[o].data) + i * stride[0] + c0 * stride[1] + y * stride[2] + x * stride[3];
          tile.row_stride[o] = by_pixels ? wide * stride[3] : stride[1];
          tile.stride[o] = walk.inner(o);
        }
        pixel += by_pixels ? tile.rows * wide : wide;
        if (unit)
          by_pixels ? channel_tile<kInputs, kSum, true>(tile, streamed, channel, totals, f)
                    : channel_tile<kInputs, kSum, false>(tile, streamed, channel, totals, f);
        else
          by_pixels ? pixel_runs<kInputs, kSum, false>(tile, false, channel, totals, f)
                    : plane_runs<kInputs, kSum, false>(tile, false, channel, totals, f);
      }

      if (kSum && step > 1)
        for (int64_t j = 0; j < step; ++j)
          for (int64_t k = 0; k < channels; ++k) partial[(i * blocks + b) * c + c0 + k] += of_lanes[j * channels + k];
    }
    if (streamed) end_stream();
  });

  if constexpr (kSum) {
    std::vector<double> values(n * c), sums(n * c);
    each(value, [&](const T& element, int64_t i, int64_t j) {
      values[i * c + j] = widen(element);
      for (int64_t b = 0; b < blocks; ++b) sums[i * c + j] += partial[(i * blocks + b) * c + j];
    });
    if constexpr (requires { f.finish(0.0, 0.0); }) finish_channels(values.data(), sums.data(), n * c, f);
    each(sum, [&](T& element, int64_t i, int64_t j) { element = narrow<T>(static_cast<A>(sums[i * c + j])); });
  }
}

template <int kInputs, class T, size_t kMaps, class F>
void channelwise(const std::array<View, kMaps>& maps, const View& value, F f, const Tensor&) {
  channel_pass<kInputs, false, T>(maps, value, value, f);
}

template <int kInputs, class T, size_t kMaps, class F>
void channelwise_sum(const std::array<View, kMaps>& maps, const View& value, const View& sum, F f, const Tensor&) {
  channel_pass<kInputs, true, T>(maps, value, sum, f);
}

}  // namespace fastiqa
