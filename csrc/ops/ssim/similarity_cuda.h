// SSIM on a GPU: the moments under the windows of a tile of two images, and SSIM and its gradients from them.
//
// The four moments are E[x], E[d], E[d²] and E[xy] with d = x - y, after constants near the pixels are subtracted. With
//
//   N = 2 cov + c2,  contrast C = N / (N + var d),    M = 2 mean x mean y + c1,  luminance L = M / (M + mean d ²)
//
// equal images give exactly 1, and gradients of almost equal ones lose no digits: nothing nearly equal is subtracted.
//
// A block loads x and x - y of a tile into shared memory, subtracts constants near the tile's pixels, and sums along rows,
// then along columns. A thread computes neighbouring sums, which share reads: 7 sums over windows of 11 read 17 pixels.
#pragma once

#include "core/launch.h"
#include "core/pack.h"
#include "core/strided.h"
#include "ops/ssim/window.h"

namespace fastiqa {

// ---- SSIM and gradients from moments ----

constexpr int kQuantities = 4;

template <class A>
struct Stabilisers {
  A c1, c2;
};

/// Numbers near the pixels of x and y in a part of the image, the same in every thread.
template <class A>
struct Centre {
  A x, y;
};

/// Of one window: N and M, the denominators of contrast and luminance, and the means that gradients need.
template <class A>
struct Similarity {
  A mean_x, mean_d;            // of x and x - y less the centre
  A whole_x, whole_d;          // of x and x - y
  A excess, contrast_divisor;  // C = (divisor - excess) / divisor
  A contrast, luminance_divisor, luminance;

  __device__ Similarity(const A (&sums)[kQuantities], const Centre<A>& centre, const Stabilisers<A>& stabilisers) {
    mean_x = sums[0], mean_d = sums[1];
    const A twice_covariance = 2 * (sums[3] - mean_x * (mean_x - mean_d));
    // Variances are at least 0 and at least twice the covariance, whatever was rounded; NaN stays.
    excess = sums[2] - mean_d * mean_d;
    if (excess < 0) excess = 0;
    if (excess < -2 * twice_covariance) excess = -2 * twice_covariance;
    const A contrast_dividend = twice_covariance + stabilisers.c2;
    contrast_divisor = contrast_dividend + excess;
    contrast = contrast_dividend / contrast_divisor;
    whole_x = mean_x + centre.x, whole_d = mean_d + (centre.x - centre.y);
    const A luminance_dividend = 2 * whole_x * (whole_x - whole_d) + stabilisers.c1;
    luminance_divisor = luminance_dividend + whole_d * whole_d;
    luminance = luminance_dividend / luminance_divisor;
  }

  __device__ A ssim() const { return contrast * luminance; }

  /// What a window spreads over its pixels: P_x, P_y, U and R. With w* the sum of what the windows spread,
  ///
  ///   grad_x = w*P_x + x w*U - d w*R,   grad_y = w*P_y + (x - d) w*U + d w*R,   U = R (1 - C)
  ///
  /// shift: the centre of this window's moments less that of x and d there.
  __device__ void spread(A grad_ssim, A grad_contrast, const Centre<A>& shift, A (&maps)[kQuantities]) const {
    const A by_contrast = 1 / contrast_divisor, by_luminance = 1 / luminance_divisor;
    const A r = 2 * (grad_ssim * luminance + grad_contrast) * by_contrast, u = r * (excess * by_contrast);
    // mean y - L mean x = -mean d (1 - mean x mean d / divisor), and likewise mean x - L mean y
    const A tilt = whole_d * by_luminance, p = 2 * grad_ssim * contrast * tilt;
    const A x = mean_x + shift.x, d = mean_d + (shift.x - shift.y);
    maps[0] = r * d - u * x - p * (1 - whole_x * tilt);
    maps[1] = p * (1 + (whole_x - whole_d) * tilt) - r * d - u * (x - d);
    maps[2] = u;
    maps[3] = r;
  }
};

// ---- tiles ----

/// A tile: kHigh rows of pixels, so kHigh - size + 1 of windows, kColumns windows a row. A thread sums kAcross windows
/// along a row, kDown along a column. K: the size of the window, 0 if known at run time. All within 48 KiB.
template <int K, int kHigh_, int kColumns_, int kAcross_, int kDown_>
struct Tile {
  static constexpr int kSize = K, kHigh = kHigh_, kColumns = kColumns_, kAcross = kAcross_, kDown = kDown_;
  static constexpr int kWide = kColumns + (K > 0 ? K : kLargestSize) - 1;
  static constexpr int kPitch = kWide | 1, kSumPitch = kColumns | 1;  // odd: neighbouring rows lie in other banks
  static constexpr int kPixels = kHigh * kPitch, kSums = kHigh * kSumPitch;
  static_assert(kColumns % kAcross == 0);
};

/// The usual window's tile, of 42 x 30 windows in float32, and any other's.
template <int K, class A>
using tile_t = std::conditional_t<
    K != 0, std::conditional_t<sizeof(A) == 4, Tile<K, 40, 42, 7, 5>, Tile<K, 28, 28, 4, 3>>,
    std::conditional_t<sizeof(A) == 4, Tile<K, 40, 32, 4, 4>, Tile<K, 36, 16, 4, 2>>>;

/// Blocks of that size that a plane takes.
inline int64_t tiles(int64_t high, int64_t wide, int64_t rows, int64_t columns) {
  return ((high + rows - 1) / rows) * ((wide + columns - 1) / columns);
}

// Not std::min, which would take references of what exists on the host alone.
FASTIQA_HD int least(int x, int y) { return x < y ? x : y; }

template <class T>
struct Images {
  Strided<T> x, y;
  int64_t channels;
  int h, w;
};

/// Where a block works: a plane, and the first row and column of its tile.
struct Place {
  int64_t plane, n, c;
  int y, x;
};

/// The tile of this block, of those of `rows` x `columns` that `high` x `wide` takes.
template <class T>
__device__ Place locate(const Images<T>& images, int rows, int columns, int high, int wide) {
  const unsigned across = (wide + columns - 1) / columns, down = (high + rows - 1) / rows, row = blockIdx.x / across;
  const int64_t plane = row / down;
  return {plane, plane / images.channels, plane % images.channels, static_cast<int>(row % down) * rows,
          static_cast<int>(blockIdx.x % across) * columns};
}

// ---- pixels ----

/// The mean of eight pixels, no two in a row or column; 0 where that is not finite, so that no other pixel suffers.
template <class A, class T>
__device__ A mean_of_some(const Strided<T>& image, const Place& at, int y0, int y1, int x0, int x1) {
  const int lane = static_cast<int>(threadIdx.x) % 8;
  const int64_t y = y0 + static_cast<int64_t>(y1 - y0 - 1) * lane / 7;
  const int64_t x = x0 + static_cast<int64_t>(x1 - x0 - 1) * (3 * lane % 8) / 7;
  A sum = widen(*image.at(at.n, at.c, y, x));
#pragma unroll
  for (int mask = 4; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
  return sum - sum == 0 ? sum / 8 : A(0);
}

template <class T, class A = accumulator_t<T>>
__device__ Centre<A> centre_of(const Images<T>& images, const Place& at, int high, int wide) {
  const int y0 = at.y > 0 ? at.y : 0, y1 = least(at.y + high, images.h);
  const int x0 = at.x > 0 ? at.x : 0, x1 = least(at.x + wide, images.w);
  return {mean_of_some<A>(images.x, at, y0, y1, x0, x1), mean_of_some<A>(images.y, at, y0, y1, x0, x1)};
}

/// x and x - y of a pixel, less the centre.
template <class T, class A>
__device__ void load_pixel(const Images<T>& images, const Place& at, const Centre<A>& centre, int64_t y, int64_t x,
                           A& of_x, A& difference) {
  const A value = widen(*images.x.at(at.n, at.c, y, x)), other = widen(*images.y.at(at.n, at.c, y, x));
  of_x = value - centre.x;
  difference = (value - other) - (centre.x - centre.y);
}

/// A tile and the halo of its windows; pixels that are not there are zero.
template <class Tile, class T, class A>
__device__ void load_pixels(const Images<T>& images, const Place& at, const Centre<A>& centre, int size, A* xs, A* ds) {
  const int wide = Tile::kColumns + size - 1;
  for (int i = static_cast<int>(threadIdx.x); i < Tile::kHigh * wide; i += kThreads) {
    const int row = i / wide, column = i % wide, y = at.y + row, x = at.x + column;
    A of_x = 0, difference = 0;
    if (y >= 0 && y < images.h && x >= 0 && x < images.w)
      load_pixel(images, at, centre, y, x, of_x, difference);
    xs[row * Tile::kPitch + column] = of_x;
    ds[row * Tile::kPitch + column] = difference;
  }
}

// ---- sums ----

/// sum[q][j] of weight[k] value[q] over the window that begins at j; read(m, value) gives the values at m.
template <int K, int S, int kMaps, class A, class Read>
__device__ void slide(const Window<A>& window, A (&sum)[kMaps][S], Read read) {
  const int size = K > 0 ? K : window.size;
#pragma unroll K > 0 ? K + S - 1 : 1
  for (int m = 0; m < size + S - 1; ++m) {
    A value[kMaps];
    read(m, value);
#pragma unroll
    for (int j = 0; j < S; ++j)
      if (m - j >= 0 && m - j < size) {
#pragma unroll
        for (int q = 0; q < kMaps; ++q) sum[q][j] += window.weight[m - j] * value[q];
      }
  }
}

/// Sums along kHigh rows, for at least `columns` windows of each; read(row, column, value) gives values.
template <int K, int S, int kHigh, int kPitch, int kMaps, class A, class Read>
__device__ void sum_rows(const Window<A>& window, int columns, A* to, Read read) {
  for (int i = static_cast<int>(threadIdx.x); i < (columns + S - 1) / S * kHigh; i += kThreads) {
    const int row = i % kHigh, first = i / kHigh * S;
    A sum[kMaps][S] = {};
    slide<K>(window, sum, [&](int m, A(&value)[kMaps]) { read(row, first + m, value); });
#pragma unroll
    for (int q = 0; q < kMaps; ++q)
#pragma unroll
      for (int j = 0; j < S; ++j) to[(q * kHigh + row) * kPitch + first + j] = sum[q][j];
  }
}

/// Sums of those along columns: each(row, column, sums) for rows x columns of windows. A known window's strips fit.
template <int K, int S, int kHigh, int kColumns, int kPitch, class A, class Each>
__device__ void sum_columns(const Window<A>& window, int rows, int columns, const A* from, Each each) {
  static_assert(K == 0 || (kHigh - K + 1) % S == 0);
  for (int i = static_cast<int>(threadIdx.x); i < (rows + S - 1) / S * kColumns; i += kThreads) {
    const int column = i % kColumns, first = i / kColumns * S;
    if (column >= columns) continue;
    A sum[kQuantities][S] = {};
    slide<K>(window, sum, [&](int m, A(&value)[kQuantities]) {
      const int row = first + m;
#pragma unroll
      for (int q = 0; q < kQuantities; ++q)
        value[q] = K > 0 || row < kHigh ? from[(q * kHigh + row) * kPitch + column] : A(0);
    });
#pragma unroll
    for (int j = 0; j < S; ++j) {
      const A sums[] = {sum[0][j], sum[1][j], sum[2][j], sum[3][j]};
      if (first + j < rows) each(first + j, column, sums);
    }
  }
}

/// each(row, column, sums) for rows x columns of windows of a tile. pixels: 2 kPixels, sums: 4 kSums.
template <class Tile, class T, class A, class Each>
__device__ void each_window(const Images<T>& images, const Window<A>& window, const Place& at, const Centre<A>& centre,
                            int rows, int columns, A* pixels, A* sums, Each each) {
  A *const xs = pixels, *const ds = pixels + Tile::kPixels;
  load_pixels<Tile>(images, at, centre, Tile::kSize > 0 ? Tile::kSize : window.size, xs, ds);
  __syncthreads();
  sum_rows<Tile::kSize, Tile::kAcross, Tile::kHigh, Tile::kSumPitch, kQuantities>(
      window, columns, sums, [&](int row, int column, A(&value)[kQuantities]) {
        const A x = xs[row * Tile::kPitch + column], d = ds[row * Tile::kPitch + column];
        value[0] = x, value[1] = d, value[2] = d * d, value[3] = x * (x - d);
      });
  __syncthreads();
  sum_columns<Tile::kSize, Tile::kDown, Tile::kHigh, Tile::kColumns, Tile::kSumPitch>(window, rows, columns, sums,
                                                                                      each);
}

// ---- a sum of all ----

constexpr int kWarps = kThreads / 32;

/// The block's sum of a number a thread, for thread 0.
template <class A>
__device__ A block_sum(A x, A* of_warp) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  A sum = 0;
  if (threadIdx.x == 0)
    for (int warp = 0; warp < kWarps; ++warp) sum += of_warp[warp];
  return sum;
}

}  // namespace fastiqa
