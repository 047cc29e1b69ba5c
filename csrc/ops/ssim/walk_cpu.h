// The way of ssim's tasks through images on the CPU: down a band of a strip of a plane, tile by tile.
//
// What a tile is made of stays in the first-level cache: two tiles of each image's pixels and four of vertical moments,
// 23 KB with the usual window in float32. Rows of pixels that tiles share are read again, from the second-level cache,
// where gradients keep 80 KB of sums of a strip as well.
#pragma once

#include "ops/ssim/tiles_cpu.h"
#include "ops/ssim/similarity_cpu.h"

namespace fastiqa {

// ---- plan ----

constexpr int64_t kStrip = 512;      // columns at the most, so that rows which tiles share are still in a cache
constexpr int64_t kLeastTasks = 16;  // of a plane that is large enough
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

// ---- tiles ----

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
