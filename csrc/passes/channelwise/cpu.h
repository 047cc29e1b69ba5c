// The channel-wise pass (pass.h) on the CPU.
//
// By planes (NCHW) a run is pixels of one channel, so each of its values is one number; by pixels (channels-last) a run
// is the channels of a pixel, or of several neighbouring pixels where there are few, beside rows of prepared values of
// the same length. Either way sums are accumulated element by element in a row of partial sums that stays in the
// first-level cache, which GCC vectorises as it does any element-wise loop. A partial sum has 16 terms, so float32
// suffices (float64 took up to 1.5 times as long); float64 adds the partial sums up and hands exact sums over.
#pragma once

#include <vector>

#include "core/nest.h"
#include "core/simd.h"
#include "core/stream.h"
#include "passes/channelwise/api.h"

namespace fastiqa {

// ---- runs of elements within a tile ----

constexpr int64_t kPartials = 512;  // partial sums at the most; by pixels also elements a run
constexpr int64_t kFold = 16;       // kPartials is a multiple
constexpr int64_t kTerms = 16;      // terms of a partial sum

/// A pointer for each of a channel's values, or sums.
template <class A, int kCount>
using Rows = std::array<A*, at_least_one(kCount)>;

template <class A, size_t kCount>
FASTIQA_HD std::array<A*, kCount> from(std::array<A*, kCount> rows, int64_t offset) {
  for (A*& row : rows) row += offset;
  return rows;
}

/// The operands and the function of a pass.
template <int kInputs, int kMaps, int kValues, int kSums, class F>
struct Pass {
  F f;
};

template <class A>
using exact_t = double;

/// `length` elements of one run, of which element i belongs to channel[.][i] or, kOne, all to channel[.][0].
template <bool kOne, bool kUnit, int kInputs, int kMaps, int kValues, int kSums, class T, class A, class F>
FASTIQA_HD void channel_run(T* const (&p)[kMaps], const int64_t* stride, int64_t length, Rows<const A, kValues> channel,
                            Rows<A, kSums> sums, const Pass<kInputs, kMaps, kValues, kSums, F>& pass) {
  const F f = pass.f;  // what f knows must not be loaded in the loop
  A one[kValues];
  for (int k = 0; kOne && k < kValues; ++k) one[k] = channel[k][0];
#pragma GCC ivdep
  for (int64_t i = 0; i < length; ++i) {
    A x[kInputs], value[kValues], y[at_least_one(kMaps - kInputs)], term[at_least_one(kSums)];
    for (int o = 0; o < kInputs; ++o) x[o] = widen(p[o][kUnit ? i : i * stride[o]]);
    for (int k = 0; k < kValues; ++k) value[k] = kOne ? one[k] : channel[k][i];
    if constexpr (kSums > 0)
      f(x, value, y, term);
    else
      f(x, value, y);
    for (int k = 0; k < kSums; ++k) sums[k][i] += term[k];
    for (int o = kInputs; o < kMaps; ++o) p[o][kUnit ? i : i * stride[o]] = narrow<T>(y[o - kInputs]);
  }
}

/// As channel_run, of up to kPartials elements, whose results may be streamed.
template <bool kOne, bool kUnit, int kInputs, int kMaps, int kValues, int kSums, class T, class A, class F>
FASTIQA_HD void channel_part(T* const (&p)[kMaps], const int64_t* stride, int64_t length, bool streamed,
                             Rows<const A, kValues> channel, Rows<A, kSums> sums,
                             const Pass<kInputs, kMaps, kValues, kSums, F>& pass) {
  constexpr bool kStages = kUnit && kMaps > kInputs;
  alignas(kLine) T staged[kStages ? kMaps - kInputs : 1][kStages ? kPartials : 1];
  T* to[kMaps];
  for (int o = 0; o < kMaps; ++o) to[o] = kStages && streamed && o >= kInputs ? staged[o - kInputs] : p[o];
  const auto some = [&](int64_t begin, int64_t count) __attribute__((always_inline)) {
    T* at[kMaps];
    for (int o = 0; o < kMaps; ++o) at[o] = to[o] + begin;
    channel_run<kOne, kUnit>(at, stride, count, from(channel, kOne ? 0 : begin), from(sums, begin), pass);
  };
  int64_t begin = 0;
  if constexpr (kUnit)
    for (; begin + kFetched <= length; begin += kFetched) {
      for (const T* map : to) fetch_ahead(map + begin);
      some(begin, kFetched);
    }
  some(begin, length - begin);
  if (kStages && streamed)
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

/// Rows of partial sums, empty to begin with.
template <class A, int kSums>
struct PartialSums {
  A sum[at_least_one(kSums)][kSums > 0 ? kPartials : 1];

  FASTIQA_HD void clear(int64_t width) {
    for (int k = 0; k < kSums; ++k) std::fill_n(sum[k], width, A{0});
  }
  FASTIQA_HD Rows<A, kSums> rows() {
    Rows<A, kSums> result;
    for (int k = 0; k < at_least_one(kSums); ++k) result[k] = sum[k];
    return result;
  }
};

/// Runs of up to kPartials * kTerms pixels, run r of channel[.][r], whose sums are added to totals[.][r].
template <bool kUnit, int kInputs, int kMaps, int kValues, int kSums, class T, class A, class F>
FASTIQA_HD void plane_runs(const Rectangle<T, kMaps>& tile, bool streamed, const Rows<const A, kValues>& channel,
                           const Rows<double, kSums>& totals, const Pass<kInputs, kMaps, kValues, kSums, F>& pass) {
  PartialSums<A, kSums> partial;
  const int64_t width = (std::min(tile.length, kPartials) + kFold - 1) / kFold * kFold;
  for (int64_t row = 0; row < tile.rows; ++row) {
    T* p[kMaps];
    for (int o = 0; o < kMaps; ++o) p[o] = tile.data[o] + row * tile.row_stride[o];
    partial.clear(width);
    for (int64_t begin = 0; begin < tile.length; begin += kPartials) {
      channel_part<true, kUnit>(p, tile.stride.data(), std::min(kPartials, tile.length - begin), streamed,
                                from(channel, row), partial.rows(), pass);
      for (int o = 0; o < kMaps; ++o) p[o] += kPartials * tile.stride[o];
    }
    for (int k = 0; k < kSums; ++k) totals[k][row] += fold_row(partial.sum[k], width);
  }
}

/// Up to kTerms runs of up to kPartials channels: element i belongs to channel[.][i] and is added to totals[.][i].
template <bool kUnit, int kInputs, int kMaps, int kValues, int kSums, class T, class A, class F>
FASTIQA_HD void pixel_runs(const Rectangle<T, kMaps>& tile, bool streamed, const Rows<const A, kValues>& channel,
                           const Rows<double, kSums>& totals, const Pass<kInputs, kMaps, kValues, kSums, F>& pass) {
  PartialSums<A, kSums> partial;
  partial.clear(tile.length);
  for (int64_t row = 0; row < tile.rows; ++row) {
    T* p[kMaps];
    for (int o = 0; o < kMaps; ++o) p[o] = tile.data[o] + row * tile.row_stride[o];
    channel_part<false, kUnit>(p, tile.stride.data(), tile.length, streamed, channel, partial.rows(), pass);
  }
  for (int k = 0; k < kSums; ++k)
#pragma GCC ivdep
    for (int64_t i = 0; i < tile.length; ++i) totals[k][i] += partial.sum[k][i];
}

template <bool kByPixels, int kInputs, int kMaps, int kValues, int kSums, class T, class A, class F>
FASTIQA_CLONES void channel_tile(const Rectangle<T, kMaps>& tile, bool streamed, const Rows<const A, kValues>& channel,
                                 const Rows<double, kSums>& totals,
                                 const Pass<kInputs, kMaps, kValues, kSums, F>& pass) {
  if constexpr (kByPixels)
    pixel_runs<true>(tile, streamed, channel, totals, pass);
  else
    plane_runs<true>(tile, streamed, channel, totals, pass);
}

/// As channel_tile, for innermost strides other than one.
template <bool kByPixels, int kInputs, int kMaps, int kValues, int kSums, class T, class A, class F>
FASTIQA_STRIDED void strided_tile(const Rectangle<T, kMaps>& tile, const Rows<const A, kValues>& channel,
                                  const Rows<double, kSums>& totals,
                                  const Pass<kInputs, kMaps, kValues, kSums, F>& pass) {
  if constexpr (kByPixels)
    pixel_runs<false>(tile, false, channel, totals, pass);
  else
    plane_runs<false>(tile, false, channel, totals, pass);
}

// ---- tasks and the pass ----

// Elements a task, which is the unit of work and of sums: of small maps fewer, so that threads have equal shares.
constexpr int64_t kLeastElements = kPartials * kTerms, kMostElements = 4 * kLeastElements, kTasks = 64;

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
  const int64_t width = std::min(c, by_pixels ? kPartials : planes), slices = (c + width - 1) / width;
  const int64_t step = dense ? kPartials / width : 1;
  const int64_t block = by_pixels ? elements / width / step * step : elements;
  const int64_t blocks = (pixels + block - 1) / block;
  std::vector<double> partial(kSums * n * blocks * c);

  const int64_t results = n * c * pixels * static_cast<int64_t>(kMaps - kInputs) * static_cast<int64_t>(sizeof(T));
  const bool streamed = unit && streams(results, (by_pixels ? step * width : std::min(pixels, kPartials)) * sizeof(T));
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
      A of_run[kValues][kPartials];
      double of_elements[at_least_one(kSums)][kSums > 0 ? kPartials : 1] = {};
      for (size_t k = 0; k < kValues; ++k) {
        channel[k] = &prepared[(k * n + i) * c + c0];
        if (step == 1) continue;
        for (int64_t j = 0; j < step; ++j) std::copy_n(channel[k], channels, of_run[k] + j * channels);
        channel[k] = of_run[k];
      }
      const auto of_block = [&](size_t k) { return &partial[((k * n + i) * blocks + b) * c + c0]; };
      for (size_t k = 0; k < kSums; ++k) totals[k] = step == 1 ? of_block(k) : of_elements[k];

      for (int64_t pixel = begin; pixel < end;) {
        const int64_t y = pixel / walk.w, x = pixel % walk.w, left = std::min(end - pixel, walk.w - x);
        const int64_t wide = std::min(left, by_pixels ? step : kPartials * kTerms);  // pixels a run
        Rectangle<T, int{kMaps}> tile;
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
          by_pixels ? strided_tile<true>(tile, channel, totals, pass)
                    : strided_tile<false>(tile, channel, totals, pass);
      }

      if (step > 1)
        for (size_t k = 0; k < kSums; ++k)
          for (int64_t j = 0; j < step; ++j)
            for (int64_t l = 0; l < channels; ++l) of_block(k)[l] += of_elements[k][j * channels + l];
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
