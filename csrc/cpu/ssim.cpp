// ssim: structural similarity and its contrast term under a separable window, and the gradients.
//
//   forward     x, y -> means, or values at every window               8 windows of `size` taps a pixel
//   backward    grad_ssim, grad_contrast, x, y -> grad_x, grad_y       16: moments are made again, gradients spread
//
// A task walks down a band of a strip of a plane, tile by tile (similarity_cpu.h). Tiles keep the rows that those below
// them need again; with the vertical moments of a row of tiles they are 245 KB a thread, with gradients on their way to
// the pixels 620 KB, all in the second-level cache. A band or strip computes one row or column of tiles for its
// neighbour's sake: vertical windows of pixels, or for gradients windows.
#include <vector>

#include "image_tiles_cpu.h"
#include "similarity_cpu.h"

namespace fastiqa {
namespace {

// ---- plan ----

constexpr int64_t kStrip = 512;      // columns at the most; they decide how much a thread keeps
constexpr int64_t kLeastTasks = 16;  // of a plane that is large enough
constexpr int64_t kLeastBand = 4;    // tiles

int64_t divided(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Results in rows [top, bottom) of columns [left, right) of a plane.
struct Task {
  int64_t n, c, top, bottom, left, right;
};

/// How planes are cut. It depends on their height and width alone, and so do the results, in any batch.
struct Plan {
  int64_t samples, channels, height, width, strip, strips, band, bands, tasks;

  /// Of results that have `less` rows and columns less than x.
  Plan(const View& x, int64_t less, int64_t lanes)
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
  Task task(int64_t k) const {
    const int64_t c = k % channels, x = k / channels % strips * strip, y = k / channels / strips % bands * band;
    return {k / channels / strips / bands, c, y, std::min(y + band, height), x, std::min(x + strip, width)};
  }

  /// Tasks that are worth a thread.
  int64_t grain() const { return std::max<int64_t>(1, kGrain / 16 / (band * strip)); }
};

// ---- tiles ----

constexpr int kUsualSize = 11;  // of windows that stay in registers; not of float64, which is for checks

/// Pixels of two planes in a row of tiles, and their moments under vertical windows.
template <class T, int kSize>
struct Pixels {
  using A = accumulator_t<T>;
  static constexpr int n = kLanes<A>;

  const Window<A>& window;
  int64_t rows, pitch;
  Vectors<A> tiles, vertical;
  Constants<A> constants;
  Plane<const T> x, y;
  int64_t left, made;

  /// For rows of tiles that are `halo` columns longer than the plan's strips, with what their windows reach.
  Pixels(const Window<A>& window, const Plan& plan, int64_t halo, double c1, double c2)
      : window(window), rows(n + window.size - 1), pitch(divided(plan.strip + halo + window.size - 1, n) * n),
        tiles(2 * rows * pitch / n), vertical(kMaps * pitch), constants{0, 0, static_cast<A>(c1), static_cast<A>(c2)} {}

  Vec<A>* tile_x(int64_t column) { return tiles.data() + (column - left) / n * 2 * rows; }
  Vec<A>* tile_y(int64_t column) { return tile_x(column) + rows; }
  MapRows<A> moments(int64_t column) { return {vertical.data() + column - left, pitch}; }

  /// Calls f(row, column) for tiles from (top, left) on, when there are moments for windows there.
  template <class F>
  void walk(const View& all_x, const View& all_y, const Task& task, int64_t top, int64_t leftmost, F f) {
    x = plane_of<const T>(all_x, task.n, task.c);
    y = plane_of<const T>(all_y, task.n, task.c);
    const int64_t height = std::min(task.bottom + window.size - 1, x.height) - top;
    const int64_t width = std::min(task.right + window.size - 1, x.width) - leftmost;
    constants.centre_x = centre_of(x, top, leftmost, height, width);
    constants.centre_y = centre_of(y, top, leftmost, height, width);
    left = leftmost;
    for (int64_t row = top; row < task.bottom; row += n) {
      made = left;
      for (int64_t column = left; column < task.right; column += n) {
        const int64_t needed = std::min(column + rows, x.width);
        for (; made < needed; made += n) make(row, row == top);
        f(row, column);
      }
    }
  }

 private:
  void make(int64_t row, bool first) {
    load(x, row, first, constants.centre_x, tile_x(made));
    load(y, row, first, constants.centre_y, tile_y(made));
    vertical_moments<kSize>(window, tile_x(made), tile_y(made), moments(made));
  }

  void load(const Plane<const T>& plane, int64_t row, bool first, A centre, Vec<A>* tile) {
    const int64_t kept = first ? 0 : rows - n;
    std::copy_n(tile + n, kept, tile);
    load_tile<T>(plane, row + kept, made, rows - kept, centre, tile + kept);
  }
};

/// Calls f.template operator()<T, kSize>().
template <class F>
void visit(const Tensor& x, int64_t size, F f) {
  visit_dtype(x, [&]<class T>() {
    if constexpr (!std::is_same_v<T, double>)
      if (size == kUsualSize) return f.template operator()<T, kUsualSize>();
    f.template operator()<T, 0>();
  });
}

// ---- forward ----

/// A tile of windows' values, in whose place their gradients are: vector i is column i.
template <class A>
void store_values(Vec<A>* tile, const View& to, const Task& task, int64_t row, int64_t column, Extent extent) {
  transpose_tile<A>(tile);
  store_tile<A>(tile, plane_of<A>(to, task.n, task.c), row, column, extent.rows, extent.columns);
}

/// Means over the windows of each plane from sums of its tasks, in their order.
template <class A>
void store_means(const std::vector<double>& sums, const Plan& plan, const View& to) {
  std::vector<double> totals(plan.samples * plan.channels);
  for (int64_t k = 0; k < plan.tasks; ++k) {
    const Task task = plan.task(k);
    totals[task.n * plan.channels + task.c] += sums[k];
  }
  for (int64_t n = 0; n < plan.samples; ++n)
    for (int64_t c = 0; c < plan.channels; ++c)
      *plane_of<A>(to, n, c).data =
          static_cast<A>(totals[n * plan.channels + c] / static_cast<double>(plan.height * plan.width));
}

void ssim(Tensor x, Tensor y, int64_t size, double sigma, double c1, double c2, bool map, Tensor ssim,
          Tensor contrast) {
  visit(x, size, [&]<class T, int kSize>() {
    using A = accumulator_t<T>;
    constexpr int64_t n = kLanes<A>;
    const Window<A> window = make_window<A>(size, sigma);
    const View all_x = view(x), all_y = view(y), to_ssim = view(ssim), to_contrast = view(contrast);
    const Plan plan(all_x, size - 1, n);
    std::vector<double> sums(plan.tasks), contrast_sums(plan.tasks);
    torch::stable::parallel_for(0, plan.tasks, plan.grain(), [&](int64_t begin, int64_t end) {
      Pixels<T, kSize> pixels(window, plan, 0, c1, c2);
      for (int64_t k = begin; k < end; ++k) {
        const Task task = plan.task(k);
        pixels.walk(all_x, all_y, task, task.top, task.left, [&](int64_t row, int64_t column) {
          const Extent extent{std::min(n, task.bottom - row), std::min(n, task.right - column)};
          alignas(kVectorBytes) Vec<A> values[n], contrasts[n];
          similarities<kSize>(window, pixels.moments(column), pixels.constants, extent, values, contrasts);
          if (map) {
            store_values<A>(values, to_ssim, task, row, column, extent);
            store_values<A>(contrasts, to_contrast, task, row, column, extent);
          } else {
            add_tile<A>(values, sums[k]);
            add_tile<A>(contrasts, contrast_sums[k]);
          }
        });
      }
    });
    if (map) return;
    store_means<A>(sums, plan, to_ssim);
    store_means<A>(contrast_sums, plan, to_contrast);
  });
}

// ---- gradients ----

/// A gradient at every window, or the same at all of a plane.
template <class A>
Plane<const A> gradient_of(const View& v, const Task& task) {
  Plane<const A> plane = plane_of<const A>(v, task.n, task.c);
  if (v.sizes[2] == 1 && v.sizes[3] == 1) plane.row = plane.column = 0;
  return plane;
}

/// Vector i is column i.
template <class A>
void load_gradient(const Plane<const A>& plane, int64_t row, int64_t column, Vec<A>* to) {
  constexpr int n = kLanes<A>;
  if (plane.row == 0 && plane.column == 0) {
    std::fill_n(to, n, Vec<A>{} + *plane.data);
  } else {
    load_tile<A>(plane, row, column, n, A{0}, to);
    transpose_tile<A>(to);
  }
}

void ssim_backward(Tensor grad_ssim, Tensor grad_contrast, Tensor x, Tensor y, int64_t size, double sigma, double c1,
                   double c2, Tensor grad_x, Tensor grad_y) {
  visit(x, size, [&]<class T, int kSize>() {
    using A = accumulator_t<T>;
    constexpr int64_t n = kLanes<A>;
    const Window<A> window = make_window<A>(size, sigma);
    const View all_x = view(x), all_y = view(y), all_g = view(grad_ssim), all_h = view(grad_contrast);
    const View to_x = view(grad_x), to_y = view(grad_y);
    const Plan plan(all_x, 0, n);
    const int64_t around = size - 1, halo = divided(around, n) * n;
    torch::stable::parallel_for(0, plan.tasks, plan.grain(), [&](int64_t begin, int64_t end) {
      Pixels<T, kSize> pixels(window, plan, halo, c1, c2);
      // Maps of gradients at windows, after `around` columns of none, and their sums along rows, tile by tile.
      const int64_t pitch = pixels.pitch + around, rows = pixels.rows;
      Vectors<A> maps(kMaps * pitch), spread(kMaps * rows * pixels.pitch / n);
      for (int64_t k = begin; k < end; ++k) {
        const Task task = plan.task(k);
        const int64_t top = std::max<int64_t>(0, task.top - halo), left = std::max<int64_t>(0, task.left - halo);
        const auto g = gradient_of<A>(all_g, task), h = gradient_of<A>(all_h, task);
        spread.clear();
        pixels.walk(all_x, all_y, task, top, left, [&](int64_t row, int64_t column) {
          alignas(kVectorBytes) Vec<A> tile_g[n], tile_h[n];
          load_gradient(g, row, column, tile_g);
          load_gradient(h, row, column, tile_h);
          const Extent windows{plan.height - around - row, plan.width - around - column};
          gradient_maps<kSize>(window, pixels.moments(column), pixels.constants, windows, tile_g, tile_h,
                               MapRows<A>{maps.data() + around + column - left, pitch});
          const MapRows<A> sums{spread.data() + kMaps * rows * ((column - left) / n), rows};
          for (int map = 0; map < kMaps; ++map) std::copy_n(&sums.at(map, n), around, &sums.at(map, 0));
          spread_along_rows<kSize>(window, MapRows<A>{maps.data() + column - left, pitch}, sums.from(around));
          if (row < task.top || column < task.left) return;
          spread_to_pixels<kSize>(window, sums, pixels.tile_x(column), pixels.tile_y(column), tile_g, tile_h);
          const int64_t height = std::min(n, task.bottom - row), width = std::min(n, task.right - column);
          store_tile<T>(tile_g, plane_of<T>(to_x, task.n, task.c), row, column, height, width);
          store_tile<T>(tile_h, plane_of<T>(to_y, task.n, task.c), row, column, height, width);
        });
      }
    });
  });
}

}  // namespace

FASTIQA_REGISTER(ssim,
                 "ssim(Tensor x, Tensor y, int size, float sigma, float c1, float c2, bool map, Tensor(a!) ssim, "
                 "Tensor(b!) contrast) -> ()")
FASTIQA_REGISTER(ssim_backward,
                 "ssim_backward(Tensor grad_ssim, Tensor grad_contrast, Tensor x, Tensor y, int size, float sigma, "
                 "float c1, float c2, Tensor(a!) grad_x, Tensor(b!) grad_y) -> ()")

}  // namespace fastiqa
