// The arithmetic of ssim on a tile of windows, on the CPU (fastiqa/ops/ssim.py has the formulas).
//
// A tile has as many rows and columns as a vector has lanes. The window's filter first runs down the columns of vectors
// along rows. Transposed with four shuffles per vector, the results are filtered in the same way along the rows. Moments
// filter x', d' = x' - y', d'^2 and x'y'; gradients filter P_x, P_y, R and U, where
//
//   U = R (1 - C),    P_x = p mu_d (mu_x mu_d / B1 - 1) + R mu_d - U mu_x,    grad_x = w*P_x - d' (w*R) + x' (w*U)
//
// and likewise for y with -d: near x = y no large numbers are subtracted, and at x = y gradients are exactly 0.
#pragma once

#include "core/simd.h"
#include "ops/ssim/window.h"

namespace fastiqa {

// ---- symmetric windows along one axis of a tile of vectors ----

// Taps are added in pairs before they are multiplied: 11 taps are 6 multiplications and 5 additions, which processors
// with adders beside their multipliers do at once. With the size known, what a window spans stays in registers, so that
// each vector is loaded once.

/// in(m, v) sets v to vector m; out(i, s) gets the sum of the window over vectors i to i + size - 1, for n of i.
/// kSize 0: any size.
template <int kSize, int n, class A, class In, class Out>
FASTIQA_HD void filter(const Window<A>& window, In in, Out out) {
  if constexpr (kSize > 0) {
    constexpr int half = kSize / 2;
    Vec<A> weight[half + 1], near[kSize];
    unrolled<half + 1>([&](auto k) __attribute__((always_inline)) { weight[k] = Vec<A>{} + window.weight[half + k]; });
    unrolled<n + kSize - 1>([&](auto m) __attribute__((always_inline)) {
      in(m, near[m % kSize]);
      if constexpr (m >= kSize - 1) {
        constexpr int centre = m - half;
        Vec<A> sum = weight[0] * near[centre % kSize];
        unrolled<half>([&](auto k) __attribute__((always_inline)) {
          sum += weight[k + 1] * (near[(centre - 1 - k) % kSize] + near[(centre + 1 + k) % kSize]);
        });
        out(m - (kSize - 1), sum);
      }
    });
  } else {
    const int half = window.size / 2;
    const A* weight = window.weight + half;
    Vec<A> all[n + kLargestSize - 1];
    for (int m = 0; m < n + 2 * half; ++m) in(m, all[m]);
    for (int i = 0; i < n; ++i) {
      const Vec<A>* centre = all + i + half;
      Vec<A> sum = weight[0] * *centre;
      for (int k = 1; k <= half; ++k) sum += weight[k] * (centre[-k] + centre[k]);
      out(i, sum);
    }
  }
}

// ---- moments and gradients ----

constexpr int kMaps = 4;  // filtered maps

/// Rows of vectors of four maps, side by side, so that neighbours in a tile have addresses with constant differences.
template <class A>
struct WindowMaps {
  Vec<A>* data;

  FASTIQA_HD Vec<A>& at(int map, int64_t i) const { return data[i * kMaps + map]; }
  FASTIQA_HD WindowMaps from(int64_t i) const { return {&at(0, i)}; }
};

template <class A>
struct Constants {
  A centre_x, centre_y, c1, c2;
};

/// Which windows of a tile there are: the first rows, in lanes, and the first columns.
struct Extent {
  int64_t rows, columns;
};

/// Sets windows to zero that there are not. column(i): the i-th vector of a tile.
template <class A, class F>
FASTIQA_HD void clear_beyond(Extent extent, F column) {
  constexpr int n = kLanes<A>;
  if (extent.rows >= n && extent.columns >= n) return;
  for (int i = 0; i < n; ++i)
    for (int l = 0; l < n; ++l)
      if (l >= extent.rows || i >= extent.columns) column(i)[l] = 0;
}

/// Rows of pixels to prefetch, `pitch` bytes apart; possibly none.
struct Ahead {
  const char* from;
  int64_t pitch;

  FASTIQA_HD void fetch(int64_t m) const { __builtin_prefetch(from + m * pitch); }
};

/// Vertical windows over two tiles of n + size - 1 rows; vector j of the result is column j.
///
/// Pixels that tiles further on will be the first to read are fetched meanwhile, a few at a time: all at once they
/// would occupy the buffers through which the second-level cache is read.
template <int kSize, class A>
FASTIQA_CLONES void vertical_moments(const Window<A>& window, const Vec<A>* x, const Vec<A>* y, Ahead next_x,
                                     Ahead next_y, WindowMaps<A> to) {
  constexpr int n = kLanes<A>;
  const int seen = (kSize > 0 ? kSize : window.size) - 1;
  const auto fetch = [&](auto m, Ahead next, int odd) __attribute__((always_inline)) {
    if (m >= seen && m % 2 == odd) next.fetch(m);
  };
  const auto filtered = [&](int map, auto in) __attribute__((always_inline)) {
    Vec<A> sum[n];
    filter<kSize, n>(window, in, [&](auto i, const Vec<A>& s) __attribute__((always_inline)) { sum[i] = s; });
    transpose<n / 2, A>(sum);
    unrolled<n>([&](auto i) __attribute__((always_inline)) { to.at(map, i) = sum[i]; });
  };
  filtered(0, [&](auto m, Vec<A>& v) __attribute__((always_inline)) {
    v = x[m];
    fetch(m, next_x, 0);
  });
  filtered(1, [&](auto m, Vec<A>& v) __attribute__((always_inline)) {
    v = x[m] - y[m];
    fetch(m, next_x, 1);
  });
  filtered(2, [&](auto m, Vec<A>& v) __attribute__((always_inline)) {
    const Vec<A> d = x[m] - y[m];
    v = d * d;
    fetch(m, next_y, 0);
  });
  filtered(3, [&](auto m, Vec<A>& v) __attribute__((always_inline)) {
    v = x[m] * y[m];
    fetch(m, next_y, 1);
  });
}

/// Columns that are filtered before their results are used: few enough that divisions overlap with the filters of the
/// next columns. Gradient maps of a tile take 433 ns, by whole tiles 488.
constexpr int kAtOnce = 4;

/// Windows along each of four maps: some columns from size - 1 more.
template <int kSize, class A>
FASTIQA_HD void filter_maps(const Window<A>& window, WindowMaps<A> from, Vec<A> (&to)[kMaps][kAtOnce]) {
  unrolled<kMaps>([&](auto map) __attribute__((always_inline)) {
    filter<kSize, kAtOnce>(
        window, [&](auto m, Vec<A>& v) __attribute__((always_inline)) { v = from.at(map, m); },
        [&](auto i, const Vec<A>& s) __attribute__((always_inline)) { to[map][i] = s; });
  });
}

/// The moments of several windows; `_d` names those of x - y.
template <class A>
struct Moments {
  Vec<A> mean_x, mean_y, mean_d;  // of x', y', d'
  Vec<A> full_x, full_y, full_d;  // of the images
  Vec<A> variance_d, shared;      // 2 cov(x, y) + c2
  Vec<A> shared_means;            // 2 mu_x mu_y + c1

  FASTIQA_HD Moments(const Vec<A> (&map)[kMaps][kAtOnce], int i, const Constants<A>& k) {
    mean_x = map[0][i];
    mean_d = map[1][i];
    mean_y = mean_x - mean_d;
    full_x = mean_x + k.centre_x;
    full_y = mean_y + k.centre_y;
    full_d = mean_d + (k.centre_x - k.centre_y);
    variance_d = map[2][i] - mean_d * mean_d;
    variance_d = variance_d < 0 ? Vec<A>{} : variance_d;
    shared = 2 * (map[3][i] - mean_x * mean_y) + k.c2;
    shared_means = 2 * full_x * full_y + k.c1;
  }
};

/// ssim and contrast at a tile of windows, given vertical moments; column i in vector i, zero where there is none.
template <int kSize, class A>
FASTIQA_CLONES void similarities(const Window<A>& window, WindowMaps<A> vertical, const Constants<A>& k, Extent extent,
                                 Vec<A>* ssim, Vec<A>* contrast) {
  const Constants<A> constants = k;
  for (int first = 0; first < kLanes<A>; first += kAtOnce) {
    Vec<A> map[kMaps][kAtOnce];
    filter_maps<kSize>(window, vertical.from(first), map);
    unrolled<kAtOnce>([&](auto at) __attribute__((always_inline)) {
      const Moments<A> of(map, at, constants);
      const Vec<A> c = of.shared / (of.shared + of.variance_d);
      contrast[first + at] = c;
      ssim[first + at] = c * (of.shared_means / (of.shared_means + of.full_d * of.full_d));
    });
  }
  clear_beyond<A>(extent, [&](int i) -> Vec<A>& { return ssim[i]; });
  clear_beyond<A>(extent, [&](int i) -> Vec<A>& { return contrast[i]; });
}

/// P_x, P_y, R and U at a tile of windows, given vertical moments and the gradients g of ssim and h of contrast.
/// Fetches meanwhile what will be written to `next`.
template <int kSize, class A>
FASTIQA_CLONES void gradient_maps(const Window<A>& window, WindowMaps<A> vertical, const Constants<A>& k, Extent extent,
                                  const Vec<A>* g, const Vec<A>* h, Ahead next, WindowMaps<A> to) {
  const Constants<A> constants = k;
  for (int first = 0; first < kLanes<A>; first += kAtOnce) {
    Vec<A> map[kMaps][kAtOnce];
    filter_maps<kSize>(window, vertical.from(first), map);
    unrolled<kAtOnce>([&](auto at) __attribute__((always_inline)) {
      const Moments<A> of(map, at, constants);
      const int i = first + at;
      const Vec<A> b = 1 / (of.shared + of.variance_d), b1 = 1 / (of.shared_means + of.full_d * of.full_d);
      const Vec<A> r = 2 * (g[i] * (of.shared_means * b1) + h[i]) * b, u = r * (of.variance_d * b);
      const Vec<A> p = 2 * g[i] * (of.shared * b) * b1 * of.full_d, t = of.full_d * b1;
      to.at(0, i) = p * (of.full_x * t - 1) + r * of.mean_d - u * of.mean_x;
      to.at(1, i) = p * (of.full_y * t + 1) - r * of.mean_d - u * of.mean_y;
      to.at(2, i) = r;
      to.at(3, i) = u;
      next.fetch(i);
    });
  }
  for (int map = 0; map < kMaps; ++map) clear_beyond<A>(extent, [&](int i) -> Vec<A>& { return to.at(map, i); });
}

/// Windows along the rows of gradient maps; vector i of the result is row i. Fetches as well.
template <int kSize, class A>
FASTIQA_CLONES void spread_along_rows(const Window<A>& window, WindowMaps<A> from, Ahead next, WindowMaps<A> to) {
  constexpr int n = kLanes<A>;
  unrolled<kMaps>([&](auto map) __attribute__((always_inline)) {
    Vec<A> sum[n];
    filter<kSize, n>(
        window, [&](auto m, Vec<A>& v) __attribute__((always_inline)) { v = from.at(map, m); },
        [&](auto i, const Vec<A>& s) __attribute__((always_inline)) {
          sum[i] = s;
          if (i % kMaps == map) next.fetch(i);
        });
    transpose<n / 2, A>(sum);
    unrolled<n>([&](auto i) __attribute__((always_inline)) { to.at(map, i) = sum[i]; });
  });
}

/// Gradients of n rows of x and y from n + size - 1 rows that spread_along_rows made.
template <int kSize, class A>
FASTIQA_CLONES void spread_to_pixels(const Window<A>& window, WindowMaps<A> from, const Vec<A>* x, const Vec<A>* y,
                                     Vec<A>* grad_x, Vec<A>* grad_y) {
  for (int first = 0; first < kLanes<A>; first += kAtOnce) {
    Vec<A> map[kMaps][kAtOnce];
    filter_maps<kSize>(window, from.from(first), map);
    unrolled<kAtOnce>([&](auto at) __attribute__((always_inline)) {
      const int i = first + at;
      const Vec<A> across = (x[i] - y[i]) * map[2][at];
      grad_x[i] = map[0][at] - across + x[i] * map[3][at];
      grad_y[i] = map[1][at] + across + y[i] * map[3][at];
    });
  }
}

template <class A>
FASTIQA_CLONES void transpose_tile(Vec<A>* tile) {
  constexpr int n = kLanes<A>;
  Vec<A> v[n];
  unrolled<n>([&](auto i) __attribute__((always_inline)) { v[i] = tile[i]; });
  transpose<n / 2, A>(v);
  unrolled<n>([&](auto i) __attribute__((always_inline)) { tile[i] = v[i]; });
}

/// Sums the few columns of a tile and adds the results to one double per row.
template <class A>
FASTIQA_CLONES void add_tile(const Vec<A>* tile, double* rows) {
  constexpr int n = kLanes<A>;
  typedef double Wide __attribute__((vector_size(n * sizeof(double)), aligned(sizeof(double)), may_alias));
  Vec<A> sum = tile[0];
  for (int i = 1; i < n; ++i) sum += tile[i];
  *reinterpret_cast<Wide*>(rows) += __builtin_convertvector(sum, Wide);
}

}  // namespace fastiqa
