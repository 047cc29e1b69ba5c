// difference.h on a GPU. Threads have packs of 16 bytes of what lies side by side; sums over it go through a warp's
// shuffles, sums over anything else stay in a thread. Where a sum is cut, to fill the device, its parts go to scratch
// memory and a second kernel adds them in order. How it is cut depends on the sizes of a sample alone.
//
//                        flat maps: pixels side by side     channels side by side
//   sums (by map)        a thread has pixels                a warp has a pixel
//   products (by weight) a warp has a channel               a thread has channels
//   spread (by ref, a, b) a thread has pixels of channels   a thread has channels of pixels
//
// All strides that fit neither run as flat maps in packs of one.
#pragma once

#include "passes/difference/tiles_cuda.h"

namespace fastiqa {

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
