// The kernels of difference_cuda.h.
#pragma once

#include "passes/difference/api.h"
#include "core/launch.h"
#include "core/pack.h"

namespace fastiqa {

/// A sum cut into `parts` of `length` terms, for each of `rows` rows of the weight.
struct Part {
  int64_t length, parts;
  int rows, size;
  int64_t weight_sample;  // stride from one sample's packed weight to the next
};

inline int64_t ceil_div(int64_t x, int64_t by) { return (x + by - 1) / by; }

constexpr int kBlocksOnSm = 4;  // holds nvcc to 64 registers

/// Whether all accesses may be packs of `pack` elements.
template <class T>
bool packable(const Triple<T>& maps, int64_t pack) {
  if (!maps.flat && !maps.channels) return false;
  if ((maps.flat ? maps.pixels() : maps.c) % pack != 0) return false;
  for (int k = 0; k < 3; ++k) {
    if (reinterpret_cast<uintptr_t>(maps.data[k]) % (pack * sizeof(T)) != 0) return false;
    const int64_t size[4] = {maps.n, maps.c, maps.h, maps.w};
    for (int d = 0; d < 4; ++d) {
      const bool inside = maps.flat ? d >= 2 : d == 1;  // the dimensions that packs run along
      if (!inside && size[d] > 1 && maps.stride[k][d] % pack != 0) return false;
    }
  }
  return true;
}

/// Both sides' differences of neighbouring elements.
template <class T, int kPack>
struct Differences {
  accumulator_t<T> side[2][kPack];

  __device__ Differences(const Triple<const T>& maps, int64_t n, int64_t c, int64_t p)
      : Differences(maps.at(0, n, c, p), maps.at(1, n, c, p), maps.at(2, n, c, p)) {}

  __device__ Differences(const T* ref_at, const T* a_at, const T* b_at) {
    const auto ref = Pack<T, kPack>::load(ref_at);
    const auto a = Pack<T, kPack>::load(a_at);
    const auto b = Pack<T, kPack>::load(b_at);
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      side[0][e] = widen(ref.element[e]) - widen(a.element[e]);
      side[1][e] = widen(ref.element[e]) - widen(b.element[e]);
    }
  }
};

/// Pixel p, and in turn those after it: divided once, where a division an element took most of a loop's instructions.
struct Pixel {
  int w, y, x;

  __device__ Pixel(int p, int64_t width) : w(static_cast<int>(width)), y(p / w), x(p - y * w) {}

  __device__ void next() {
    const bool last = ++x == w;
    x = last ? 0 : x;
    y += last;
  }
};

/// map[n][o] as a pixel meets it in row r = (o, t).
template <class T>
struct Shifted {
  const T* origin;
  int y, x;  // of what pixel (0, 0) meets

  __device__ Shifted(const View& map, const Part& part, int64_t n, int r) {
    const int size = part.size, o = r / (size * size), t = r - o * size * size;
    origin = static_cast<const T*>(map.data) + n * map.strides[0] + o * map.strides[1];
    y = size / 2 - t / size;
    x = size / 2 - t % size;
  }

  /// map[n][o][q - shift(t)]; false outside.
  __device__ bool at(const View& map, const Pixel& q, accumulator_t<T>& value) const {
    const int row = q.y + y, column = q.x + x;
    if (row < 0 || row >= map.sizes[2] || column < 0 || column >= map.sizes[3]) return false;
    value = widen(origin[row * map.strides[2] + column * map.strides[3]]);
    return true;
  }
};

template <class A>
__device__ A over_warp(A x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
  return x;
}

/// What a thread does: an item along memory, a group of rows, a part of the sum, a sample.
struct Task {
  int64_t item, group, part, n;

  __device__ Task(int64_t t, int64_t items, int64_t groups, int64_t parts)
      : item(t % items), group(t / items % groups), part(t / items / groups % parts), n(t / items / groups / parts) {}
};

template <class T>
__global__ void __launch_bounds__(kThreads) pack_weight_kernel(const WeightView weight, const int64_t elements,
                                                               accumulator_t<T>* packed) {
  const int64_t i = global_thread<int64_t>();
  if (i >= elements) return;
  const int64_t c = i % weight.channels, j = i / weight.channels, r = j / 2 % weight.rows();
  packed[i] = widen(static_cast<const T*>(weight.data)[weight.at(j / 2 / weight.rows(), r, j % 2, c)]);
}

// ---- sums over the channels: sums[part][n][row][p] ----

template <class T, int kPack, int kRows>
__global__ void __launch_bounds__(kThreads, kBlocksOnSm)
    sums_flat_kernel(const Triple<const T> maps, const Part part, const accumulator_t<T>* weight, const int64_t threads,
                     accumulator_t<T>* sums) {
  using A = accumulator_t<T>;
  const int64_t t = global_thread<int64_t>();
  if (t >= threads) return;
  const Task task(t, maps.pixels() / kPack, (part.rows + kRows - 1) / kRows, part.parts);
  const int64_t p = task.item * kPack;
  const int r0 = static_cast<int>(task.group) * kRows;
  const int64_t end = std::min((task.part + 1) * part.length, maps.c);
  const A* w = weight + task.n * part.weight_sample + r0 * 2 * maps.c;
  A sum[kRows][kPack] = {};
  for (int64_t c = task.part * part.length; c < end; ++c) {
    const Differences<T, kPack> d(maps, task.n, c, p);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r0 + r >= part.rows) break;
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        const A factor = w[(2 * r + s) * maps.c + c];
#pragma unroll
        for (int e = 0; e < kPack; ++e) sum[r][e] += factor * d.side[s][e];
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (r0 + r >= part.rows) break;
    A* to = sums + ((task.part * maps.n + task.n) * part.rows + r0 + r) * maps.pixels() + p;
#pragma unroll
    for (int e = 0; e < kPack; ++e) to[e] = sum[r][e];
  }
}

template <class T, int kPack, int kRows>
__global__ void __launch_bounds__(kThreads, kBlocksOnSm)
    sums_channels_kernel(const Triple<const T> maps, const Part part, const accumulator_t<T>* weight,
                         const int64_t threads, accumulator_t<T>* sums) {
  using A = accumulator_t<T>;
  constexpr int kWeights = std::min<int>(kPack, 16 / sizeof(A));  // 16 bytes
  const int64_t t = global_thread<int64_t>();
  if (t >= threads) return;  // whole warps
  const Task task(t / 32, maps.pixels(), (part.rows + kRows - 1) / kRows, part.parts);
  const int r0 = static_cast<int>(task.group) * kRows;
  const int64_t end = std::min((task.part + 1) * part.length, maps.c);
  const A* w = weight + task.n * part.weight_sample + r0 * 2 * maps.c;
  const T *ref = maps.at(0, task.n, 0, task.item), *a = maps.at(1, task.n, 0, task.item);
  const T* b = maps.at(2, task.n, 0, task.item);
  A* const to = sums + ((task.part * maps.n + task.n) * part.rows + r0) * maps.pixels() + task.item;
  A sum[kRows] = {};
  for (int64_t c = task.part * part.length + t % 32 * kPack; c < end; c += 32 * kPack) {
    const Differences<T, kPack> d(ref + c, a + c, b + c);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r0 + r >= part.rows) break;
#pragma unroll
      for (int s = 0; s < 2; ++s)
#pragma unroll
        for (int e = 0; e < kPack; e += kWeights) {
          const auto factors = Pack<A, kWeights>::load(w + (2 * r + s) * maps.c + c + e);
#pragma unroll
          for (int k = 0; k < kWeights; ++k) sum[r] += factors.element[k] * d.side[s][e + k];
        }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const A whole = over_warp(sum[r]);
    if (t % 32 == 0 && r0 + r < part.rows) to[r * maps.pixels()] = whole;
  }
}

/// y = bias + the taps of all parts.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksOnSm)
    gather_kernel(const accumulator_t<T>* sums, const Part part, const int64_t n, const int64_t h, const int64_t w,
                  const T* bias, const int64_t bias_stride, const View y, const int64_t outputs) {
  const int64_t i = global_thread<int64_t>();
  if (i >= outputs) return;
  const int64_t pixels = h * w, step = n * part.rows * pixels;  // from a part to the next
  const int taps = part.size * part.size, all = part.rows / taps, o = static_cast<int>(i / pixels % all);
  const int p = static_cast<int>(i % pixels), y0 = p / static_cast<int>(w), x0 = p - y0 * static_cast<int>(w);
  const int64_t sample = i / pixels / all;
  const int parts = static_cast<int>(part.parts);
  accumulator_t<T> sum = bias != nullptr ? accumulator_t<T>(widen(bias[o * bias_stride])) : accumulator_t<T>(0);
  for (int tap = 0; tap < taps; ++tap) {
    const int row = y0 + tap / part.size - part.size / 2, column = x0 + tap % part.size - part.size / 2;
    if (row < 0 || row >= h || column < 0 || column >= w) continue;
    const accumulator_t<T>* from = sums + (sample * part.rows + o * taps + tap) * pixels + row * w + column;
#pragma unroll 4
    for (int k = 0; k < parts; ++k) sum += from[k * step];
  }
  static_cast<T*>(y.data)[sample * y.strides[0] + o * y.strides[1] + y0 * y.strides[2] + x0 * y.strides[3]] =
      narrow<T>(sum);
}

}  // namespace fastiqa

#include "passes/difference/products_cuda.h"
