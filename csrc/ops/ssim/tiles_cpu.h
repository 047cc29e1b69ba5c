// Tiles of images as vectors on the CPU: a vector is some neighbours along a row, a tile so many rows of them.
#pragma once

#include <cmath>
#include <type_traits>

#include "core/simd.h"

namespace fastiqa {

/// One channel of one image.
template <class T>
struct Plane {
  T* data;
  int64_t height, width, row, column;  // the last two are strides
  const T* end;                        // of the tensor: what is not needed may be read up to here

  T* at(int64_t y, int64_t x) const { return data + y * row + x * column; }
};

template <class T>
Plane<T> plane_of(const View& v, int64_t n, int64_t c) {
  const auto& stride = v.strides;
  T* const data = static_cast<T*>(v.data);
  const T* last = data;
  for (int d = 0; d < kMaxRank; ++d) last += (v.sizes[d] - 1) * stride[d];
  return {data + n * stride[0] + c * stride[1], v.sizes[2], v.sizes[3], stride[2], stride[3], last + 1};
}

/// Every third of 3 n neighbours: a channel of RGB pixels.
template <class T, int n>
FASTIQA_HD void every_third(const T* from, T (&to)[n]) {
  typedef T V __attribute__((vector_size(n * sizeof(T))));
  V v[3];
  std::memcpy(v, from, sizeof v);
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    const V most = FASTIQA_SHUFFLE(v[0], v[1], (3 * I < 2 * n ? 3 * I : 0)...);
    v[0] = FASTIQA_SHUFFLE(most, v[2], (3 * I < 2 * n ? I : 3 * I - n)...);
  }(std::make_integer_sequence<int, n>());
  std::memcpy(to, &v[0], sizeof to);
}

/// T as C++ computes with it, of the same size.
template <class T>
struct bits_of {
  using type = T;
};
template <>
struct bits_of<bfloat16> {
  using type = uint16_t;
};
template <>
struct bits_of<float16> {
  using type = uint16_t;
};

/// Rows [y, y + rows) of columns [x, x + lanes), less `centre`; zeros where the image has no pixel.
template <class T, class A>
FASTIQA_CLONES void load_tile(const Plane<const T>& plane, int64_t y, int64_t x, int64_t rows, A centre, Vec<A>* to) {
  constexpr int n = kLanes<A>;
  using Bits = typename bits_of<T>::type;
  const int64_t exist = std::clamp<int64_t>(plane.height - y, 0, rows);
  const int columns = static_cast<int>(std::clamp<int64_t>(plane.width - x, 0, n));
  const T* from = plane.at(y, x);
  const int64_t row = plane.row;
  // By row, with nothing to decide in it.
  const auto each = [&](auto load) __attribute__((always_inline)) {
    for (int64_t i = 0; i < exist; ++i, from += row) {
      Vec<A> v;
      load(v);
      to[i] = v - centre;
    }
  };
  const bool whole = columns == n;
  if (plane.column == 1 && whole) {
    each([&](Vec<A>& v) __attribute__((always_inline)) { widen_vector(from, v); });
  } else if (plane.column == 3 && whole && exist > 0 && plane.end - (from + (exist - 1) * row) >= 3 * n) {
    each([&](Vec<A>& v) __attribute__((always_inline)) {
      Bits third[n];
      every_third(reinterpret_cast<const Bits*>(from), third);
      T some[n];
      std::memcpy(some, third, sizeof some);
      widen_vector(some, v);
    });
  } else {
    const int64_t column = plane.column;
    each([&](Vec<A>& v) __attribute__((always_inline)) {
      A lanes[n];
      for (int l = 0; l < n; ++l) lanes[l] = l < columns ? widen(from[l * column]) : centre;
      std::memcpy(&v, lanes, sizeof v);
    });
  }
  for (int64_t i = exist; i < rows; ++i) to[i] = Vec<A>{};
}

/// Rows [y, y + rows) of columns [x, x + columns).
template <class T>
FASTIQA_CLONES void store_tile(const Vec<accumulator_t<T>>* from, const Plane<T>& plane, int64_t y, int64_t x,
                               int64_t rows, int64_t columns) {
  using A = accumulator_t<T>;
  constexpr int n = kLanes<A>;
  // Halves: whole vectors, which AVX2 lacks, GCC would move in eight pieces there.
  typedef A Half __attribute__((vector_size(kVectorBytes / 2), aligned(sizeof(A)), may_alias));
  for (int64_t i = 0; i < rows; ++i) {
    T* to = plane.at(y + i, x);
    if (std::is_same_v<T, A> && plane.column == 1 && columns == n) {
      const auto* halves = reinterpret_cast<const Half*>(&from[i]);
      for (int k = 0; k < 2; ++k) reinterpret_cast<Half*>(to)[k] = halves[k];
      continue;
    }
    T some[n];
    narrow_vector(from[i], some);
    if (plane.column == 1)
      copy_some(to, some, static_cast<int>(columns));
    else
      for (int l = 0; l < columns; ++l) to[l * plane.column] = some[l];
  }
}

/// A value near those of columns [x, x + columns) in rows [y, y + rows): the mean of some that are finite.
template <class T>
accumulator_t<T> centre_of(const Plane<const T>& plane, int64_t y, int64_t x, int64_t rows, int64_t columns) {
  constexpr int64_t kPoints = 12;  // along each side
  const int64_t down = std::min(kPoints, rows), across = std::min(kPoints, columns);
  double sum = 0, count = 0;
  for (int64_t i = 0; i < down; ++i)
    for (int64_t j = 0; j < across; ++j) {
      const double value = widen(*plane.at(y + i * rows / down, x + j * columns / across));
      if (!std::isfinite(value)) continue;
      sum += value;
      ++count;
    }
  return count > 0 ? static_cast<accumulator_t<T>>(sum / count) : 0;
}

}  // namespace fastiqa
