// Rows of maps as vectors of channels, on the CPU.
//
// Maps are worked on in blocks of as many channels as a vector of 64 bytes holds, one vector a pixel, so that every
// memory format, 16-bit type and odd width runs the same arithmetic: `gather_row` brings a row of a block's channels into
// that form (NCHW through 16x16 transposes, some 10 % of the time), `scatter_row` takes it back. A weight is a vector too,
// one value a channel; sums for weight gradients need no reduction across lanes.
#pragma once

#include "core/simd.h"

namespace fastiqa {

/// A row of a block of channels in a map.
template <class T>
struct Row {
  T* data;
  int64_t channel, column;  // strides
  int channels;             // at most a vector's lanes; lanes without a channel hold zeros
  int64_t count;            // columns
  int64_t next;             // to the row that will be moved after this one, which is fetched into the cache meanwhile
  const T* end;             // of the tensor: what is not needed may be read up to here
};

// Pixels a power of two apart share few sets of the first-level cache, where the next row's would drive each other out:
// large_kernel_conv of 2x256x112x112 float32, channels-last, on one thread 8.0 instead of 9.4 ms.
constexpr int kSecondLevel = 2;

template <class T>
FASTIQA_CLONES void gather_row(const Row<T>& row, Vec<accumulator_t<T>>* to) {
  using A = accumulator_t<T>;
  constexpr int n = kLanes<A>;
  if (row.channel == 1 && row.channels == n) {
    for (int64_t x = 0; x < row.count; ++x) {
      __builtin_prefetch(row.data + x * row.column + row.next, 0, kSecondLevel);
      widen_vector(row.data + x * row.column, to[x]);
    }
  } else if (row.column == 1) {
    for (int64_t x = 0; x < row.count; x += n) {
      const int columns = static_cast<int>(std::min<int64_t>(n, row.count - x));
      const T* from = row.data + x;
      Vec<A> v[n];
      if (row.channels == n && row.end - from >= (n - 1) * row.channel + n) {
        unrolled<n>([&](auto l) __attribute__((always_inline)) {
          __builtin_prefetch(from + l * row.channel + row.next);
          widen_vector(from + l * row.channel, v[l]);
        });
      } else {
        for (int l = 0; l < n; ++l) {
          T some[n] = {};
          if (l < row.channels) copy_some(some, from + l * row.channel, columns);
          widen_vector(some, v[l]);
        }
      }
      transpose<n / 2, A>(v);
      unrolled<n>([&](auto k) __attribute__((always_inline)) {
        if (k < columns) to[x + k] = v[k];
      });
    }
  } else {
    for (int64_t x = 0; x < row.count; ++x) {
      A lanes[n] = {};
      for (int l = 0; l < row.channels; ++l) lanes[l] = widen(row.data[x * row.column + l * row.channel]);
      std::memcpy(&to[x], lanes, sizeof lanes);
    }
  }
}

template <class T>
FASTIQA_CLONES void scatter_row(const Vec<accumulator_t<T>>* from, const Row<T>& row) {
  using A = accumulator_t<T>;
  constexpr int n = kLanes<A>;
  if (row.channel == 1 && row.channels == n) {
    for (int64_t x = 0; x < row.count; ++x) {
      __builtin_prefetch(row.data + x * row.column + row.next, 0, kSecondLevel);
      narrow_vector(from[x], row.data + x * row.column);
    }
  } else if (row.column == 1) {
    for (int64_t x = 0; x < row.count; x += n) {
      const int columns = static_cast<int>(std::min<int64_t>(n, row.count - x));
      Vec<A> v[n];  // of a row with room for n vectors more: those after its end are of no account
      unrolled<n>([&](auto k) __attribute__((always_inline)) { v[k] = from[x + k]; });
      transpose<n / 2, A>(v);
      unrolled<n>([&](auto l) __attribute__((always_inline)) {
        if (l >= row.channels) return;
        T* to = row.data + l * row.channel + x;
        __builtin_prefetch(to + row.next, 1);
        T some[n];
        narrow_vector(v[l], some);
        copy_some(to, some, columns);
      });
    }
  } else {
    for (int64_t x = 0; x < row.count; ++x) {
      A lanes[n];
      std::memcpy(lanes, &from[x], sizeof lanes);
      for (int l = 0; l < row.channels; ++l) row.data[x * row.column + l * row.channel] = narrow<T>(lanes[l]);
    }
  }
}

}  // namespace fastiqa
