// Tiles of images as vectors on the CPU, and the walk of ssim's tasks through them: tile by tile down a band of a strip
// of a plane. A vector holds neighbours along a row; a tile has one row per lane.
//
// A tile's working set stays in the first-level cache: two tiles of each image's pixels and four of vertical moments,
// 23 KB with the usual window in float32. Tiles share rows of pixels, which are read again from the second-level cache.
// Gradients keep 80 KB of a strip's sums there too.
#pragma once

#include <cmath>
#include <type_traits>

#include "core/simd.h"
#include "core/tensor.h"
#include "ops/ssim/similarity_cpu.h"

namespace fastiqa {

// ---- tiles ----

/// One channel of one image.
template <class T>
struct Plane {
  T* data;
  int64_t height, width, row, column;  // the last two are strides
  const T* end;                        // of the tensor: reads beyond the plane stop here

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

// ---- plan ----

constexpr int64_t kStrip = 512;      // most columns, so that rows shared by tiles are still cached
constexpr int64_t kLeastTasks = 16;  // of a large plane
constexpr int64_t kLeastBand = 4;    // tiles

inline int64_t divided(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Results in rows [top, bottom) of columns [left, right) of a plane.
struct ImageTask {
  int64_t n, c, top, bottom, left, right;
};

/// How planes are cut. It depends on their height and width alone, and so do the results, in any batch.
struct ImagePlan {
  int64_t samples, channels, height, width, strip, strips, band, bands, tasks;

  /// Of results that have `less` rows and columns less than x.
  ImagePlan(const View& x, int64_t less, int64_t lanes)
      : samples(x.sizes[0]), channels(x.sizes[1]), height(x.sizes[2] - less), width(x.sizes[3] - less) {
    const int64_t rows = divided(height, lanes);
    strip = divided(divided(width, lanes), divided(width, kStrip)) * lanes;
    strips = divided(width, strip);
    const int64_t wanted = divided(kLeastTasks, strips);
    band = divided(rows, std::clamp<int64_t>(wanted, 1, divided(rows, kLeastBand))) * lanes;
    bands = divided(height, band);
    tasks = samples * channels * bands * strips;
  }

  /// Channels come first, as they share memory where they are stored side by side.
  ImageTask task(int64_t k) const {
    const int64_t c = k % channels, x = k / channels % strips * strip, y = k / channels / strips % bands * band;
    return {k / channels / strips / bands, c, y, std::min(y + band, height), x, std::min(x + strip, width)};
  }

  /// Tasks that are worth a thread.
  int64_t grain() const { return std::max<int64_t>(1, kGrain / 16 / (band * strip)); }
};

// ---- the walk down a band ----

template <class T>
Ahead ahead(const Plane<T>& plane, int64_t row, int64_t column) {
  return {reinterpret_cast<const char*>(plane.at(row, column)), plane.row * static_cast<int64_t>(sizeof(T))};
}

/// Pixels of two planes at the tiles under a horizontal window, and their moments under vertical windows.
template <class T, int kSize>
struct Pixels {
  using A = accumulator_t<T>;
  static constexpr int n = kLanes<A>;

  const Window<A>& window;
  int64_t rows, reach, width;  // rows of a tile; tiles under a horizontal window; columns of moments at hand
  Vectors<A> tiles, vertical;
  Constants<A> constants;
  Plane<const T> x, y;
  int64_t left, held, made;  // columns: of the first tile, and from where to where there are moments

  Pixels(const Window<A>& window, double c1, double c2)
      : window(window), rows(n + window.size - 1), reach(divided(rows, n)), width((reach + 2) * n),
        tiles(2 * rows * reach), vertical(kMaps * (width + window.size - 1)),
        constants{0, 0, static_cast<A>(c1), static_cast<A>(c2)} {}

  Vec<A>* tile_x(int64_t column) { return tiles.data() + (column - left) / n % reach * 2 * rows; }
  Vec<A>* tile_y(int64_t column) { return tile_x(column) + rows; }
  WindowMaps<A> moments(int64_t column) { return WindowMaps<A>{vertical.data()}.from(column - held); }

  /// Calls f(row, column) for tiles from (top, left) on, when there are moments for windows there.
  template <class F>
  void walk(const View& all_x, const View& all_y, const ImageTask& task, int64_t top, int64_t leftmost, F f) {
    x = plane_of<const T>(all_x, task.n, task.c);
    y = plane_of<const T>(all_y, task.n, task.c);
    const int64_t height = std::min(task.bottom + window.size - 1, x.height) - top;
    const int64_t across = std::min(task.right + window.size - 1, x.width) - leftmost;
    constants.centre_x = centre_of(x, top, leftmost, height, across);
    constants.centre_y = centre_of(y, top, leftmost, height, across);
    left = leftmost;
    for (int64_t row = top; row < task.bottom; row += n) {
      held = made = left;
      for (int64_t column = left; column < task.right; column += n) {
        const int64_t needed = std::min(column + rows, x.width);
        for (; made < needed; made += n) {
          if (made == held + width) hold(column);
          make(row);
        }
        f(row, column);
      }
    }
  }

 private:
  /// Moments from `column` on to the front.
  void hold(int64_t column) {
    std::copy_n(moments(column).data, kMaps * (made - column), moments(held).data);
    held = column;
  }

  void make(int64_t row) {
    load_tile<T>(x, row, made, rows, constants.centre_x, tile_x(made));
    load_tile<T>(y, row, made, rows, constants.centre_y, tile_y(made));
    constexpr int64_t kTiles = 2;  // ns a tile of 1x3x1080x1920 on one thread: 858 with 1, 730 with 2, 752 with 4
    const int64_t next = made + kTiles * n;
    vertical_moments<kSize>(window, tile_x(made), tile_y(made), ahead(x, row, next), ahead(y, row, next),
                            moments(made));
  }
};

}  // namespace fastiqa
