// ssim: structural similarity and its contrast term under a separable window, and the gradients.
//
//   forward     x, y -> means, or values at every window               8 windows of `size` taps a pixel
//   backward    grad_ssim, grad_contrast, x, y -> grad_x, grad_y       16: moments are made again, gradients spread
//
// A task walks down a band of a strip of a plane, tile by tile (tiles_cpu.h). A band or strip computes one
// row or column of tiles for its neighbour's sake: vertical windows of pixels, or for gradients windows.
#include <numeric>
#include <vector>

#include "ops/ssim/api.h"
#include "ops/ssim/tiles_cpu.h"

namespace fastiqa {
namespace {

constexpr int kUsualSize = 11;  // windows of this size stay in registers, except in float64, which is for checks

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
void store_values(Vec<A>* tile, const View& to, const ImageTask& task, int64_t row, int64_t column, Extent extent) {
  transpose_tile<A>(tile);
  store_tile<A>(tile, plane_of<A>(to, task.n, task.c), row, column, extent.rows, extent.columns);
}

/// Means over the windows of each plane from sums of its tasks, in their order.
template <class A>
void store_means(const std::vector<double>& sums, const ImagePlan& plan, const View& to) {
  std::vector<double> totals(plan.samples * plan.channels);
  for (int64_t k = 0; k < plan.tasks; ++k) {
    const ImageTask task = plan.task(k);
    totals[task.n * plan.channels + task.c] += sums[k];
  }
  for (int64_t n = 0; n < plan.samples; ++n)
    for (int64_t c = 0; c < plan.channels; ++c)
      *plane_of<A>(to, n, c).data =
          static_cast<A>(totals[n * plan.channels + c] / static_cast<double>(plan.height * plan.width));
}

void ssim(Tensor x, Tensor y, int64_t size, double sigma, double c1, double c2, bool map, Tensor ssim,
          Tensor contrast) {
  check_ssim(x, y, size, map, ssim, contrast);
  visit(x, size, [&]<class T, int kSize>() {
    using A = accumulator_t<T>;
    constexpr int64_t n = kLanes<A>;
    const Window<A> window = make_window<A>(size, sigma);
    const View all_x = view(x), all_y = view(y), to_ssim = written(ssim), to_contrast = written(contrast);
    const ImagePlan plan(all_x, size - 1, n);
    std::vector<double> sums(plan.tasks), contrast_sums(plan.tasks);
    parallel_for(0, plan.tasks, plan.grain(), [&](int64_t begin, int64_t end) {
      Pixels<T, kSize> pixels(window, c1, c2);
      for (int64_t k = begin; k < end; ++k) {
        const ImageTask task = plan.task(k);
        double rows[n] = {}, contrast_rows[n] = {};
        pixels.walk(all_x, all_y, task, task.top, task.left, [&](int64_t row, int64_t column) {
          const Extent extent{std::min(n, task.bottom - row), std::min(n, task.right - column)};
          alignas(kVectorBytes) Vec<A> values[n], contrasts[n];
          similarities<kSize>(window, pixels.moments(column), pixels.constants, extent, values, contrasts);
          if (map) {
            store_values<A>(values, to_ssim, task, row, column, extent);
            store_values<A>(contrasts, to_contrast, task, row, column, extent);
          } else {
            add_tile<A>(values, rows);
            add_tile<A>(contrasts, contrast_rows);
          }
        });
        sums[k] = std::accumulate(rows, rows + n, 0.0);
        contrast_sums[k] = std::accumulate(contrast_rows, contrast_rows + n, 0.0);
      }
    });
    if (map) return;
    store_means<A>(sums, plan, to_ssim);
    store_means<A>(contrast_sums, plan, to_contrast);
  });
}

// ---- gradients ----

/// A gradient at every window, or the same at all of a plane: of means, and of a map's sum.
template <class A>
struct Gradient {
  static constexpr int n = kLanes<A>;

  Plane<const A> plane;
  bool uniform;
  alignas(kVectorBytes) Vec<A> tile[n];  // vector i is column i

  Gradient(const View& v, const ImageTask& task)
      : plane(plane_of<const A>(v, task.n, task.c)), uniform(same(v, 2) && same(v, 3)) {
    if (uniform) std::fill_n(tile, n, Vec<A>{} + *plane.data);
  }

  static bool same(const View& v, int d) { return v.sizes[d] == 1 || v.strides[d] == 0; }

  const Vec<A>* at(int64_t row, int64_t column) {
    if (uniform) return tile;
    load_tile<A>(plane, row, column, n, A{0}, tile);
    transpose_tile<A>(tile);
    return tile;
  }
};

void ssim_backward(Tensor grad_ssim, Tensor grad_contrast, Tensor x, Tensor y, int64_t size, double sigma, double c1,
                   double c2, Tensor grad_x, Tensor grad_y) {
  check_ssim_backward(grad_ssim, grad_contrast, x, y, size, grad_x, grad_y);
  visit(x, size, [&]<class T, int kSize>() {
    using A = accumulator_t<T>;
    constexpr int64_t n = kLanes<A>;
    const Window<A> window = make_window<A>(size, sigma);
    const View all_x = view(x), all_y = view(y), all_g = view(grad_ssim), all_h = view(grad_contrast);
    const View to_x = written(grad_x), to_y = written(grad_y);
    const ImagePlan plan(all_x, 0, n);
    const int64_t around = size - 1, halo = divided(around, n) * n;
    parallel_for(0, plan.tasks, plan.grain(), [&](int64_t begin, int64_t end) {
      Pixels<T, kSize> pixels(window, c1, c2);
      // Maps of gradients at a tile of windows, after the last columns before it. Their sums along rows, after the last
      // rows above it, which a strip keeps for the tiles below.
      const int64_t count = kMaps * around;
      Vectors<A> maps(kMaps * pixels.rows), spread(kMaps * pixels.rows), kept(count * divided(plan.strip + halo, n));
      const WindowMaps<A> at_windows{maps.data()}, sums{spread.data()};
      for (int64_t k = begin; k < end; ++k) {
        const ImageTask task = plan.task(k);
        const int64_t top = std::max<int64_t>(0, task.top - halo), left = std::max<int64_t>(0, task.left - halo);
        Gradient<A> g(all_g, task), h(all_h, task);
        const auto plane_x = plane_of<T>(to_x, task.n, task.c), plane_y = plane_of<T>(to_y, task.n, task.c);
        kept.clear();
        pixels.walk(all_x, all_y, task, top, left, [&](int64_t row, int64_t column) {
          const Extent windows{plan.height - around - row, plan.width - around - column};
          if (column == left)
            std::fill_n(maps.data(), count, Vec<A>{});
          else
            std::copy_n(at_windows.from(n).data, count, maps.data());
          gradient_maps<kSize>(window, pixels.moments(column), pixels.constants, windows, g.at(row, column),
                               h.at(row, column), ahead(plane_x, row, column), at_windows.from(around));
          Vec<A>* const above = kept.data() + (column - left) / n * count;
          std::copy_n(above, count, spread.data());
          spread_along_rows<kSize>(window, at_windows, ahead(plane_y, row, column), sums.from(around));
          std::copy_n(sums.from(n).data, count, above);
          if (row < task.top || column < task.left) return;
          alignas(kVectorBytes) Vec<A> tile_x[n], tile_y[n];
          spread_to_pixels<kSize>(window, sums, pixels.tile_x(column), pixels.tile_y(column), tile_x, tile_y);
          const int64_t height = std::min(n, task.bottom - row), width = std::min(n, task.right - column);
          store_tile<T>(tile_x, plane_x, row, column, height, width);
          store_tile<T>(tile_y, plane_y, row, column, height, width);
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
