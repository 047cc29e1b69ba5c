// Runs of elements of channelwise_cpu.h: what happens within a tile.
#pragma once

#include "passes/channelwise/api.h"
#include "passes/elementwise/cpu.h"

namespace fastiqa {

constexpr int64_t kLanes = 512;                 // partial sums at the most; by pixels also elements a run
constexpr int64_t kFold = 16;                   // kLanes is a multiple
constexpr int64_t kTerms = 16;                  // terms of a partial sum

/// A pointer for each of a channel's values, or sums.
template <class A, int kCount>
using Rows = std::array<A*, at_least_one(kCount)>;

template <class A, size_t kCount>
FASTIQA_HD std::array<A*, kCount> from(std::array<A*, kCount> rows, int64_t offset) {
  for (A*& row : rows) row += offset;
  return rows;
}

/// What a pass is made of.
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

/// As channel_run, of up to kLanes elements, whose results may be streamed.
template <bool kOne, bool kUnit, int kInputs, int kMaps, int kValues, int kSums, class T, class A, class F>
FASTIQA_HD void channel_part(T* const (&p)[kMaps], const int64_t* stride, int64_t length, bool streamed,
                             Rows<const A, kValues> channel, Rows<A, kSums> sums,
                             const Pass<kInputs, kMaps, kValues, kSums, F>& pass) {
  constexpr bool kStages = kUnit && kMaps > kInputs;
  alignas(kLine) T staged[kStages ? kMaps - kInputs : 1][kStages ? kLanes : 1];
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
struct Lanes {
  A lane[at_least_one(kSums)][kSums > 0 ? kLanes : 1];

  FASTIQA_HD void clear(int64_t width) {
    for (int k = 0; k < kSums; ++k) std::fill_n(lane[k], width, A{0});
  }
  FASTIQA_HD Rows<A, kSums> rows() {
    Rows<A, kSums> result;
    for (int k = 0; k < at_least_one(kSums); ++k) result[k] = lane[k];
    return result;
  }
};

/// Runs of up to kLanes * kTerms pixels, run r of channel[.][r], whose sums are added to totals[.][r].
template <bool kUnit, int kInputs, int kMaps, int kValues, int kSums, class T, class A, class F>
FASTIQA_HD void plane_runs(const Tile<T, kMaps>& tile, bool streamed, const Rows<const A, kValues>& channel,
                           const Rows<double, kSums>& totals, const Pass<kInputs, kMaps, kValues, kSums, F>& pass) {
  Lanes<A, kSums> lanes;
  const int64_t width = (std::min(tile.length, kLanes) + kFold - 1) / kFold * kFold;
  for (int64_t row = 0; row < tile.rows; ++row) {
    T* p[kMaps];
    for (int o = 0; o < kMaps; ++o) p[o] = tile.data[o] + row * tile.row_stride[o];
    lanes.clear(width);
    for (int64_t begin = 0; begin < tile.length; begin += kLanes) {
      channel_part<true, kUnit>(p, tile.stride.data(), std::min(kLanes, tile.length - begin), streamed,
                                from(channel, row), lanes.rows(), pass);
      for (int o = 0; o < kMaps; ++o) p[o] += kLanes * tile.stride[o];
    }
    for (int k = 0; k < kSums; ++k) totals[k][row] += fold_row(lanes.lane[k], width);
  }
}

/// Up to kTerms runs of up to kLanes channels: element i belongs to channel[.][i] and is added to totals[.][i].
template <bool kUnit, int kInputs, int kMaps, int kValues, int kSums, class T, class A, class F>
FASTIQA_HD void pixel_runs(const Tile<T, kMaps>& tile, bool streamed, const Rows<const A, kValues>& channel,
                           const Rows<double, kSums>& totals, const Pass<kInputs, kMaps, kValues, kSums, F>& pass) {
  Lanes<A, kSums> lanes;
  lanes.clear(tile.length);
  for (int64_t row = 0; row < tile.rows; ++row) {
    T* p[kMaps];
    for (int o = 0; o < kMaps; ++o) p[o] = tile.data[o] + row * tile.row_stride[o];
    channel_part<false, kUnit>(p, tile.stride.data(), tile.length, streamed, channel, lanes.rows(), pass);
  }
  for (int k = 0; k < kSums; ++k)
#pragma GCC ivdep
    for (int64_t i = 0; i < tile.length; ++i) totals[k][i] += lanes.lane[k][i];
}

template <bool kByPixels, int kInputs, int kMaps, int kValues, int kSums, class T, class A, class F>
FASTIQA_CLONES void channel_tile(const Tile<T, kMaps>& tile, bool streamed, const Rows<const A, kValues>& channel,
                                 const Rows<double, kSums>& totals,
                                 const Pass<kInputs, kMaps, kValues, kSums, F>& pass) {
  if constexpr (kByPixels)
    pixel_runs<true>(tile, streamed, channel, totals, pass);
  else
    plane_runs<true>(tile, streamed, channel, totals, pass);
}

}  // namespace fastiqa
