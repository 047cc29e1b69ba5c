// Gates on a GPU: interpolated sigmoids of logits, at every pixel or for a pack of elements, and maps multiplied by them.
#pragma once

#include <string>

#include "core/launch.h"
#include "core/pack.h"
#include "core/sigmoid.h"
#include "ops/gated_upsample/api.h"

namespace fastiqa {

/// A four-dimensional tensor of any strides.
template <class T>
struct Map {
  T* data;
  int64_t n, c, y, x;  // strides in elements

  explicit Map(const View& view)
      : data(static_cast<T*>(view.data)), n(view.strides[0]), c(view.strides[1]), y(view.strides[2]),
        x(view.strides[3]) {}

  __device__ T* at(int64_t in, int64_t ic, int64_t iy, int64_t ix) const {
    return data + in * n + ic * c + iy * y + ix * x;
  }
};

constexpr int kEach = 4;  // channels of a thread that share the gates it has loaded

template <class A>
struct Geometry {
  int64_t n, c;
  Axis<A> rows, columns;

  FASTIQA_HD int64_t plane() const { return rows.out * columns.out; }
  FASTIQA_HD int64_t groups() const { return (c + kEach - 1) / kEach; }
};

/// f.operator()<kPack>() with the widest pack that all these maps allow along their inner dimension.
template <class T, class F>
void visit_pack(bool allowed, F f) {
  allowed ? f.template operator()<16 / sizeof(T)>() : f.template operator()<1>();
}

/// Whether packs along a dimension never straddle anything: neighbours in memory, lengths, strides and addresses multiples.
template <class T>
bool packable(const Map<T>& map, int inner, int64_t length) {
  constexpr int64_t kPack = 16 / sizeof(T);
  const int64_t strides[4] = {map.n, map.c, map.y, map.x};
  bool fits = strides[inner] == 1 && length % kPack == 0 && reinterpret_cast<uintptr_t>(map.data) % 16 == 0;
  for (int d = 0; d < 4; ++d) fits = fits && (d == inner || strides[d] % kPack == 0);
  return fits;
}

/// As packable, for whole planes without a gap between rows.
template <class T>
bool dense(const Map<T>& map, int64_t width, int64_t plane) {
  constexpr int64_t kPack = 16 / sizeof(T);
  return map.x == 1 && map.y == width && plane % kPack == 0 && map.n % kPack == 0 && map.c % kPack == 0 &&
         reinterpret_cast<uintptr_t>(map.data) % 16 == 0;
}

inline int64_t blocks(int64_t threads) { return (threads + kThreads - 1) / kThreads; }

/// kCount neighbours, 16 bytes at a time where there are so many.
template <class A, int kCount>
__device__ void load(const A* from, A (&to)[kCount]) {
  constexpr int kPack = kCount == 1 ? 1 : 16 / sizeof(A);
#pragma unroll
  for (int k = 0; k < kCount; k += kPack) {
    const auto pack = Pack<A, kPack>::load(from + k);
#pragma unroll
    for (int j = 0; j < kPack; ++j) to[k + j] = pack.element[j];
  }
}

template <class A, int kCount>
__device__ void store(const A (&from)[kCount], A* to) {
  constexpr int kPack = kCount == 1 ? 1 : 16 / sizeof(A);
#pragma unroll
  for (int k = 0; k < kCount; k += kPack) {
    Pack<A, kPack> pack;
#pragma unroll
    for (int j = 0; j < kPack; ++j) pack.element[j] = from[k + j];
    pack.store(to + k);
  }
}

/// The gate of one channel at every pixel.
template <class T>
__global__ void __launch_bounds__(kThreads)
    gate_kernel(const Map<T> logits, const Geometry<accumulator_t<T>> sizes, accumulator_t<T>* gates) {
  using A = accumulator_t<T>;
  const int64_t i = global_thread<int64_t>();
  if (i >= sizes.n * sizes.plane()) return;
  const int64_t row = i / sizes.columns.out, n = row / sizes.rows.out;
  const Taps<A> y = sizes.rows.taps(row % sizes.rows.out), x = sizes.columns.taps(i % sizes.columns.out);
  const auto s = [&](int64_t iy, int64_t ix) { return sigmoid(widen(*logits.at(n, 0, iy, ix))); };
  gates[i] = sizes.rows.nearest ? s(y.i0, x.i0)
                                : y.w0 * (x.w0 * s(y.i0, x.i0) + x.w1 * s(y.i0, x.i1)) +
                                      y.w1 * (x.w0 * s(y.i1, x.i0) + x.w1 * s(y.i1, x.i1));
}

/// in * gate for kEach channels of a pack of pixels.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads)
    scale_planes(const Map<T> in, const Map<T> out, const accumulator_t<T>* gates,
                 const Geometry<accumulator_t<T>> sizes) {
  const int64_t i = global_thread<int64_t>(), packs = sizes.plane() / kPack, rest = i / packs;
  const int64_t pixel = i % packs * kPack, first = rest % sizes.groups() * kEach, n = rest / sizes.groups();
  if (n >= sizes.n) return;
  const int64_t y = pixel / sizes.columns.out, x = pixel % sizes.columns.out;
  accumulator_t<T> gate[kPack];
  load(gates + n * sizes.plane() + pixel, gate);
#pragma unroll
  for (int c = 0; c < kEach; ++c) {
    if (first + c >= sizes.c) break;
    auto pack = Pack<T, kPack>::load(in.at(n, first + c, y, x));
#pragma unroll
    for (int k = 0; k < kPack; ++k) pack.element[k] = narrow<T>(widen(pack.element[k]) * gate[k]);
    pack.store(out.at(n, first + c, y, x));
  }
}

/// in * gate for a pack of channels of a pixel.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads)
    scale_pixels(const Map<T> in, const Map<T> out, const accumulator_t<T>* gates,
                 const Geometry<accumulator_t<T>> sizes) {
  const int64_t i = global_thread<int64_t>(), packs = sizes.c / kPack, pixel = i / packs, row = pixel / sizes.columns.out;
  const int64_t c = i % packs * kPack, x = pixel % sizes.columns.out, y = row % sizes.rows.out, n = row / sizes.rows.out;
  if (n >= sizes.n) return;
  const accumulator_t<T> gate = gates[pixel];
  auto pack = Pack<T, kPack>::load(in.at(n, c, y, x));
#pragma unroll
  for (int k = 0; k < kPack; ++k) pack.element[k] = narrow<T>(widen(pack.element[k]) * gate);
  pack.store(out.at(n, c, y, x));
}

/// A row of a pack's own gates, interpolated along the columns alone: from row iy of the logits.
template <int kPack, bool kPixels, bool kDoubles, class T, class A>
__device__ void gate_row(const Map<T>& logits, const Axis<A>& columns, int64_t n, int64_t c, int64_t iy, int64_t x,
                         A (&gate)[kPack]) {
  if constexpr (kPixels) {
    const Taps<A> tap = columns.taps(x);
    const auto a = Pack<T, kPack>::load(logits.at(n, c, iy, tap.i0));
    const auto b = Pack<T, kPack>::load(logits.at(n, c, iy, tap.i1));
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      gate[k] = sigmoid(widen(a.element[k]));
      if (!columns.nearest) gate[k] = tap.w0 * gate[k] + tap.w1 * sigmoid(widen(b.element[k]));
    }
  } else if constexpr (kDoubles && kPack > 1) {
    // Neighbours share: a pack has kPack / 2 logits and one more at either end.
    const int64_t left = x / 2 - 1;
    A s[kPack / 2 + 2];
#pragma unroll
    for (int k = 0; k < kPack / 2 + 2; ++k) {
      const int64_t ix = left + k < 0 ? 0 : left + k < columns.in ? left + k : columns.in - 1;
      s[k] = sigmoid(widen(*logits.at(n, c, iy, ix)));
    }
#pragma unroll
    for (int k = 0; k < kPack; ++k)
      gate[k] = columns.nearest ? s[k / 2 + 1]
                : k % 2 == 0    ? A(0.25) * s[k / 2] + A(0.75) * s[k / 2 + 1]
                                : A(0.75) * s[k / 2 + 1] + A(0.25) * s[k / 2 + 2];
    if (x == 0 && !columns.nearest) gate[0] = s[1] + A(0) * s[2];  // PyTorch's weights; a NaN beside it counts
  } else {
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const Taps<A> tap = columns.taps(x + k);
      gate[k] = sigmoid(widen(*logits.at(n, c, iy, tap.i0)));
      if (!columns.nearest) gate[k] = tap.w0 * gate[k] + tap.w1 * sigmoid(widen(*logits.at(n, c, iy, tap.i1)));
    }
  }
}

/// in * gate for a pack, with gates of its own; where sizes double, for the two rows between the same rows of logits.
template <class T, int kPack, bool kPixels, bool kDoubles>
__global__ void __launch_bounds__(kThreads, sizeof(T) < 8 ? 4 : 3)  // float64 spills in 64 registers
    own_kernel(const Map<T> in, const Map<T> out, const Map<T> logits, const Geometry<accumulator_t<T>> sizes) {
  using A = accumulator_t<T>;
  const int64_t rows = kDoubles ? sizes.rows.in + 1 : sizes.rows.out;
  const int64_t width = sizes.columns.out / (kPixels ? 1 : kPack), channels = sizes.c / (kPixels ? kPack : 1);
  const int64_t i = global_thread<int64_t>();
  const int64_t inner = kPixels ? channels : width, second = i / inner, middle = kPixels ? width : rows;
  const int64_t third = second / middle, outer = kPixels ? rows : channels, n = third / outer;
  if (n >= sizes.n) return;
  const int64_t c = kPixels ? i % inner * kPack : third % outer, x = kPixels ? second % middle : i % inner * kPack;
  const int64_t row = kPixels ? third % outer : second % middle;

  const int64_t first = kDoubles ? (row > 0 ? 2 * row - 1 : 0) : row;
  const int64_t last = kDoubles ? (row < sizes.rows.in ? 2 * row : first) : row;
  const Taps<A> tap = sizes.rows.taps(first);
  A a[kPack], b[kPack];
  gate_row<kPack, kPixels, kDoubles>(logits, sizes.columns, n, c, tap.i0, x, a);
  if (!sizes.rows.nearest) gate_row<kPack, kPixels, kDoubles>(logits, sizes.columns, n, c, tap.i1, x, b);
  // Nearest: the two rows between rows of logits belong to different ones.
#pragma unroll 1
  for (int64_t y = first; y <= last; ++y) {
    const Taps<A> weight = sizes.rows.taps(y);
    if (sizes.rows.nearest && weight.i0 != tap.i0)
      gate_row<kPack, kPixels, kDoubles>(logits, sizes.columns, n, c, weight.i0, x, a);
    auto pack = Pack<T, kPack>::load(in.at(n, c, y, x));
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const A gate = sizes.rows.nearest ? a[k] : weight.w0 * a[k] + weight.w1 * b[k];
      pack.element[k] = narrow<T>(widen(pack.element[k]) * gate);
    }
    pack.store(out.at(n, c, y, x));
  }
}

}  // namespace fastiqa
