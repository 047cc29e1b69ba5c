// The kernels of difference_cuda.h that read the maps of difference_tiles.h: sums over the pixels, and gradients.
#pragma once

namespace fastiqa {

/// The map as rows [r0, r0 + kRows) of the weight meet it.
template <class T, int kRows>
__device__ std::array<Shifted<T>, kRows> rows_from(const View& map, const Part& part, int64_t n, int r0) {
  if constexpr (kRows == 1)
    return {Shifted<T>(map, part, n, r0)};
  else
    return {Shifted<T>(map, part, n, r0), Shifted<T>(map, part, n, r0 + 1)};
}

// ---- sums over the pixels: parts[n][part][row][side][c] ----

template <class T, int kPack, int kRows>
__global__ void __launch_bounds__(kThreads, kBlocksOnSm)
    products_flat_kernel(const Triple<const T> maps, const Part part, const View map, const int64_t threads,
                         accumulator_t<T>* parts) {
  using A = accumulator_t<T>;
  const int64_t t = global_thread<int64_t>();
  if (t >= threads) return;  // whole warps
  const Task task(t / 32, maps.c, (part.rows + kRows - 1) / kRows, part.parts);
  const int r0 = static_cast<int>(task.group) * kRows;
  const int end = static_cast<int>(std::min((task.part + 1) * part.length, maps.pixels()));
  const auto shifted = rows_from<T, kRows>(map, part, task.n, r0);
  A sum[kRows][2] = {};
  for (int p = static_cast<int>(task.part * part.length + t % 32 * kPack); p < end; p += 32 * kPack) {
    const Differences<T, kPack> d(maps, task.n, task.item, p);
    Pixel pixel(p, maps.w);
#pragma unroll
    for (int e = 0; e < kPack; ++e, pixel.next()) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        A factor;
        if (r0 + r >= part.rows || !shifted[r].at(map, pixel, factor)) continue;
        sum[r][0] += factor * d.side[0][e];
        sum[r][1] += factor * d.side[1][e];
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2 * kRows; ++r) {
    const A whole = over_warp(sum[r / 2][r % 2]);
    if (t % 32 == 0 && r0 + r / 2 < part.rows)
      parts[(((task.n * part.parts + task.part) * part.rows + r0) * 2 + r) * maps.c + task.item] = whole;
  }
}

template <class T, int kPack, int kRows>
__global__ void __launch_bounds__(kThreads, sizeof(T) < 8 ? kBlocksOnSm : 3)  // float64 spills in 64 registers
    products_channels_kernel(const Triple<const T> maps, const Part part, const View map, const int64_t threads,
                             accumulator_t<T>* parts) {
  using A = accumulator_t<T>;
  const int64_t t = global_thread<int64_t>();
  if (t >= threads) return;
  const Task task(t, maps.c / kPack, (part.rows + kRows - 1) / kRows, part.parts);
  const int64_t c = task.item * kPack;
  const int r0 = static_cast<int>(task.group) * kRows;
  const int end = static_cast<int>(std::min((task.part + 1) * part.length, maps.pixels()));
  const auto shifted = rows_from<T, kRows>(map, part, task.n, r0);
  A sum[kRows][2][kPack] = {};
  Pixel pixel(static_cast<int>(task.part * part.length), maps.w);
  for (int p = static_cast<int>(task.part * part.length); p < end; ++p, pixel.next()) {
    A factor[kRows];
    bool exists[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) exists[r] = r0 + r < part.rows && shifted[r].at(map, pixel, factor[r]);
    const Differences<T, kPack> d(maps, task.n, c, p);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (!exists[r]) continue;
#pragma unroll
      for (int e = 0; e < 2 * kPack; ++e) sum[r][e / kPack][e % kPack] += factor[r] * d.side[e / kPack][e % kPack];
    }
  }
#pragma unroll
  for (int r = 0; r < 2 * kRows; ++r) {
    if (r0 + r / 2 >= part.rows) break;
    A* to = parts + (((task.n * part.parts + task.part) * part.rows + r0) * 2 + r) * maps.c + c;
#pragma unroll
    for (int e = 0; e < kPack; ++e) to[e] = sum[r / 2][r % 2][e];
  }
}

/// g = the sum of `together` parts.
template <class T>
__global__ void __launch_bounds__(kThreads)
    collect_kernel(const accumulator_t<T>* parts, const int64_t together, const WeightView g, const int64_t outputs) {
  const int64_t i = global_thread<int64_t>();
  if (i >= outputs) return;
  const int64_t one = g.rows() * 2 * g.channels, n = i / one, j = i % one;
  accumulator_t<T> sum = 0;
  for (int64_t k = 0; k < together; ++k) sum += parts[(n * together + k) * one + j];
  const int64_t c = j % g.channels, side = j / g.channels % 2, r = j / g.channels / 2;
  static_cast<T*>(g.data)[g.at(n, r, side, c)] = narrow<T>(sum);
}

// ---- gradients of ref, a and b ----

template <class T, int kPack>
__device__ void store_gradients(const Triple<T>& grads, int64_t n, int64_t c, int64_t p,
                                const accumulator_t<T> (&g)[2][kPack]) {
  Pack<T, kPack> ref, a, b;
#pragma unroll
  for (int e = 0; e < kPack; ++e) {
    ref.element[e] = narrow<T>(g[0][e] + g[1][e]);
    a.element[e] = narrow<T>(-g[0][e]);
    b.element[e] = narrow<T>(-g[1][e]);
  }
  ref.store(grads.at(0, n, c, p));
  a.store(grads.at(1, n, c, p));
  b.store(grads.at(2, n, c, p));
}

template <class T, int kPack, int kChannels>
__global__ void __launch_bounds__(kThreads, kBlocksOnSm)
    spread_flat_kernel(const Triple<T> grads, const Part part, const View map, const accumulator_t<T>* weight,
                       const int64_t threads) {
  using A = accumulator_t<T>;
  const int64_t t = global_thread<int64_t>();
  if (t >= threads) return;
  const Task task(t, grads.pixels() / kPack, (grads.c + kChannels - 1) / kChannels, 1);
  const int p = static_cast<int>(task.item) * kPack;
  const int64_t c = task.group * kChannels;
  const A* w = weight + task.n * part.weight_sample + c;
  A g[kChannels][2][kPack] = {};
  for (int r = 0; r < part.rows; ++r) {
    const Shifted<T> shifted(map, part, task.n, r);
    Pixel pixel(p, grads.w);
#pragma unroll
    for (int e = 0; e < kPack; ++e, pixel.next()) {
      A value;
      if (!shifted.at(map, pixel, value)) continue;
#pragma unroll
      for (int k = 0; k < 2 * kChannels; ++k)
        if (c + k / 2 < grads.c) g[k / 2][k % 2][e] += w[(2 * r + k % 2) * grads.c + k / 2] * value;
    }
  }
#pragma unroll
  for (int k = 0; k < kChannels; ++k)
    if (c + k < grads.c) store_gradients<T, kPack>(grads, task.n, c + k, p, g[k]);
}

template <class T, int kPack, int kPixels>
__global__ void __launch_bounds__(kThreads, kBlocksOnSm)
    spread_channels_kernel(const Triple<T> grads, const Part part, const View map, const accumulator_t<T>* weight,
                           const int64_t threads) {
  using A = accumulator_t<T>;
  const int64_t t = global_thread<int64_t>();
  if (t >= threads) return;
  const Task task(t, grads.c / kPack, (grads.pixels() + kPixels - 1) / kPixels, 1);
  const int p = static_cast<int>(task.group) * kPixels;
  const int64_t c = task.item * kPack;
  const A* w = weight + task.n * part.weight_sample + c;
  A g[kPixels][2][kPack] = {};
  for (int r = 0; r < part.rows; ++r) {
    const Shifted<T> shifted(map, part, task.n, r);
    Pixel pixel(p, grads.w);
#pragma unroll
    for (int k = 0; k < kPixels; ++k, pixel.next()) {
      A value;
      if (p + k >= grads.pixels() || !shifted.at(map, pixel, value)) continue;
#pragma unroll
      for (int e = 0; e < 2 * kPack; ++e)
        g[k][e / kPack][e % kPack] += w[(2 * r + e / kPack) * grads.c + e % kPack] * value;
    }
  }
#pragma unroll
  for (int k = 0; k < kPixels; ++k)
    if (p + k < grads.pixels()) store_gradients<T, kPack>(grads, task.n, c, p + k, g[k]);
}

}  // namespace fastiqa
