// The difference pass (pass.h) on a GPU. A thread takes packs of 16 bytes along the dimension that lies side by side.
// Sums along that dimension go through a warp's shuffles, all others stay in a thread. Where a sum is cut, to fill the
// device, its parts go to scratch memory and a second kernel adds them in order. Only a sample's sizes decide the cuts.
//
//                           flat maps: pixels side by side     channels side by side
//   sums (by map)           a thread has pixels                a warp has a pixel
//   products (by weight)    a warp has a channel               a thread has channels
//   spread (by ref, a, b)   a thread has pixels of channels    a thread has channels of pixels
//
// All strides that fit neither run as flat maps in packs of one.
#pragma once

#include "core/launch.h"
#include "core/pack.h"
#include "core/scratch.h"
#include "passes/difference/api.h"

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

// ---- launchers ----

constexpr int64_t kFill = 65536;  // threads that fill a device

/// f<elements of a pack, rows of the weight at once>. Sums of several rows fit the registers for packs of 8 bytes.
template <class T, int kRows, class F>
void by_pack_and_rows(const Triple<const T>& maps, int rows, F f) {
  constexpr int kPack = 16 / sizeof(T), kHalf = sizeof(T) < 8 ? kPack / 2 : kPack;
  if (!packable(maps, kPack))
    rows == 1 ? f.template operator()<1, 1>() : f.template operator()<1, kRows>();
  else
    rows == 1 ? f.template operator()<kPack, 1>() : f.template operator()<kHalf, kRows>();
}

/// Weights in the accumulation type, dense: [sample][row][side][channel].
template <class T>
Scratch<accumulator_t<T>> pack_weight(const WeightView& weight, int64_t n, const Tensor& on) {
  const int64_t elements = weight.samples(n) * weight.rows() * 2 * weight.channels;
  Scratch<accumulator_t<T>> packed(on, elements);
  launch(pack_weight_kernel<T>, ceil_div(elements, kThreads), kThreads, on, weight, elements, packed.data());
  return packed;
}

/// y[n][o][p] = bias[o] + sum over taps, sides, channels of weight * d(p + shift).
template <class T>
void difference_sums(const Triple<const T>& maps, const WeightView& weight, const T* bias, int64_t bias_stride,
                     const View& y, const Tensor& on) {
  using A = accumulator_t<T>;
  const int rows = static_cast<int>(weight.rows()), size = static_cast<int>(weight.size);
  const int64_t pixels = maps.pixels();
  const auto packed_weight = pack_weight<T>(weight, maps.n, on);
  const bool flat = !maps.channels;
  const auto run = [&]<int kPack, int kRows>() {
    const int64_t items = flat ? pixels / kPack : 32 * pixels;  // threads that one part takes
    const int64_t most = flat ? ceil_div(maps.c, 32) : ceil_div(maps.c, 32 * kPack);
    const int64_t splits = std::clamp<int64_t>(kFill / std::max<int64_t>(1, items), 1, most);
    Part part{ceil_div(maps.c, splits), splits, rows, size, weight.sample == 0 ? 0 : rows * 2 * maps.c};
    if (!flat) part.length = ceil_div(part.length, kPack) * kPack;
    part.parts = ceil_div(maps.c, part.length);

    const int64_t groups = ceil_div(rows, kRows), threads = items * groups * part.parts * maps.n;
    Scratch<A> sums(on, part.parts * maps.n * rows * pixels);
    launch(flat ? sums_flat_kernel<T, kPack, kRows> : sums_channels_kernel<T, kPack, kRows>,
           ceil_div(threads, kThreads), kThreads, on, maps, part, packed_weight.data(), threads, sums.data());
    const int64_t outputs = maps.n * weight.outputs * pixels;
    launch(gather_kernel<T>, ceil_div(outputs, kThreads), kThreads, on, sums.data(), part, maps.n, maps.h, maps.w, bias,
           bias_stride, y, outputs);
  };
  constexpr int kMostRows = sizeof(T) == 8 ? 2 : 3;  // three of float64 spill on sm_100 and sm_120
  by_pack_and_rows<T, kMostRows>(maps, rows, run);
}

/// g[n][o][s][c][t] = sum over q of map(q - shift) * d(q), or its sum over the samples.
template <class T>
void difference_products(const Triple<const T>& maps, const View& map, const WeightView& g, bool each, const Tensor& on) {
  using A = accumulator_t<T>;
  const int rows = static_cast<int>(g.rows()), size = static_cast<int>(g.size);
  const int64_t pixels = maps.pixels();
  const bool flat = !maps.channels;
  const auto run = [&]<int kPack, int kRows>() {
    const int64_t length = flat ? 1024 : std::clamp<int64_t>(pixels / 64, 64, 1024);
    const Part part{length, ceil_div(pixels, length), rows, size, 0};
    const int64_t items = flat ? 32 * maps.c : maps.c / kPack;
    const int64_t threads = items * ceil_div(rows, kRows) * part.parts * maps.n;
    Scratch<A> parts(on, maps.n * part.parts * rows * 2 * maps.c);
    launch(flat ? products_flat_kernel<T, kPack, kRows> : products_channels_kernel<T, kPack, kRows>,
           ceil_div(threads, kThreads), kThreads, on, maps, part, map, threads, parts.data());
    const int64_t outputs = (each ? maps.n : 1) * rows * 2 * maps.c;
    launch(collect_kernel<T>, ceil_div(outputs, kThreads), kThreads, on, parts.data(),
           each ? part.parts : part.parts * maps.n, g, outputs);
  };
  by_pack_and_rows<T, 2>(maps, rows, run);  // two sums a row
}

/// The gradients of ref, a and b: g_s[n][c][q] = sum over outputs and taps of weight * map(q - shift).
template <class T>
void difference_spread(const View& map, const WeightView& weight, const Triple<T>& grads, const Tensor& on) {
  const int rows = static_cast<int>(weight.rows()), size = static_cast<int>(weight.size);
  const auto packed_weight = pack_weight<T>(weight, grads.n, on);
  const bool flat = !grads.channels;
  const auto run = [&]<int kPack>() {
    constexpr int kOthers = kPack == 8 ? 1 : 2;  // 16 sums a thread
    const int64_t along = (flat ? grads.pixels() : grads.c) / kPack;
    const int64_t others = ceil_div(flat ? grads.c : grads.pixels(), kOthers), threads = along * others * grads.n;
    const Part part{0, 1, rows, size, weight.sample == 0 ? 0 : rows * 2 * grads.c};
    launch(flat ? spread_flat_kernel<T, kPack, kOthers> : spread_channels_kernel<T, kPack, kOthers>,
           ceil_div(threads, kThreads), kThreads, on, grads, part, map, packed_weight.data(), threads);
  };
  packable(grads, 16 / sizeof(T)) ? run.template operator()<16 / sizeof(T)>() : run.template operator()<1>();
}

}  // namespace fastiqa
