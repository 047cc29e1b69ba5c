// channelwise.h on a GPU.
//
// Without sums a thread moves one pack of 16 bytes a map, or one element, as in elementwise_cuda.h, and prepares the
// values of that pack itself. With sums, by planes (NCHW): a warp or a block takes a plane, adds up its threads' sums and
// writes the result. By pixels (channels-last): a thread keeps one pack of channels, whose values it prepares once, and
// goes through the pixels of a block; the blocks' sums meet in a second kernel.
#pragma once

#include "channel_maps.h"
#include "elementwise_cuda.h"

namespace fastiqa {

constexpr int kWarp = 32;
/// Blocks an SM of the kernels with sums: 64 registers a thread, where nvcc would take 80; seven maps would spill.
template <int kMaps>
constexpr int kBlocksAnSM = kMaps < 7 ? 4 : 3;
constexpr int kPixelsAThread = 32;  // terms of a thread's sum by pixels; the second kernel reads a float for so many

/// The maps' packs at one place, with f applied to them. Returns nothing, or adds f's terms to sums[kPack].
template <int kInputs, int kPack, bool kSum, class T, int kMaps, class F, class A>
__device__ void channel_packs(const ChannelMaps<T, kMaps>& maps, int64_t n, int64_t c, int64_t y, int64_t x,
                              const A (&prepared)[kPack], const F& f, A (&sums)[kPack]) {
  T* at[kMaps];
#pragma unroll
  for (int o = 0; o < kMaps; ++o) {
    const auto& stride = maps.walk.stride[o];
    at[o] = maps.data[o] + n * stride[0] + c * stride[1] + y * stride[2] + x * stride[3];
  }
  Pack<T, kPack> in[kInputs], out[kMaps - kInputs];
#pragma unroll
  for (int o = 0; o < kInputs; ++o) in[o] = Pack<T, kPack>::load(at[o]);
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    A x[kInputs], y[kMaps - kInputs];
#pragma unroll
    for (int o = 0; o < kInputs; ++o) x[o] = widen(in[o].element[k]);
    if constexpr (kSum)
      sums[k] += f(x, prepared[k], y);
    else
      f(x, prepared[k], y);
#pragma unroll
    for (int o = kInputs; o < kMaps; ++o) out[o - kInputs].element[k] = narrow<T>(y[o - kInputs]);
  }
#pragma unroll
  for (int o = kInputs; o < kMaps; ++o) out[o - kInputs].store(at[o]);
}

/// Prepared values of kPack channels of a pixel, or of the one channel of kPack pixels.
template <int kPack, bool kByPixels, class T, int kMaps, class F, class A>
__device__ void prepare_channels(const ChannelMaps<T, kMaps>& maps, int64_t n, int64_t c, const F& f,
                                 A (&prepared)[kPack]) {
  const auto prepare = [&](A value) {
    if constexpr (requires { f.prepare(value); })
      return f.prepare(value);
    else
      return value;
  };
  const T* from = maps.value + n * maps.value_stride[0] + c * maps.value_stride[1];
  if constexpr (kByPixels) {
    const auto values = Pack<T, kPack>::load(from);
#pragma unroll
    for (int k = 0; k < kPack; ++k) prepared[k] = prepare(widen(values.element[k]));
  } else {
    const A one = prepare(widen(*from));
#pragma unroll
    for (int k = 0; k < kPack; ++k) prepared[k] = one;
  }
}

template <int kInputs, int kPack, bool kByPixels, class Index, class T, int kMaps, class F>
__global__ void __launch_bounds__(kThreads)
    channelwise_kernel(const ChannelMaps<T, kMaps> maps, const Index packs, const F f) {
  using A = accumulator_t<T>;
  const auto& walk = maps.walk;
  const Index p = global_thread<Index>();
  if (p >= packs) return;
  int64_t n, c, y, x;
  if constexpr (kByPixels) {
    const Index columns = static_cast<Index>(walk.c / kPack), width = static_cast<Index>(walk.w);
    const Index pixel = p / columns, row = pixel / width;
    c = static_cast<int64_t>(p % columns) * kPack, x = pixel % width;
    y = row % static_cast<Index>(walk.h), n = row / static_cast<Index>(walk.h);
  } else {
    const Index columns = static_cast<Index>(walk.w / kPack);
    const Index row = p / columns, plane = row / static_cast<Index>(walk.h);
    x = static_cast<int64_t>(p % columns) * kPack, y = row % static_cast<Index>(walk.h);
    c = plane % static_cast<Index>(walk.c), n = plane / static_cast<Index>(walk.c);
  }
  A prepared[kPack], none[kPack];
  prepare_channels<kPack, kByPixels>(maps, n, c, f, prepared);
  channel_packs<kInputs, kPack, false>(maps, n, c, y, x, prepared, f, none);
}

template <class T, int kMaps, class F, class A>
__device__ void finish_channel(const ChannelMaps<T, kMaps>& maps, int64_t n, int64_t c, A sum, const F& f) {
  if constexpr (requires { f.finish(sum, sum); })
    sum = f.finish(widen(maps.value[n * maps.value_stride[0] + c * maps.value_stride[1]]), sum);
  maps.sum[n * maps.sum_stride[0] + c * maps.sum_stride[1]] = narrow<T>(sum);
}

/// A group of kGroup threads, a warp or the block, takes a plane.
template <int kInputs, int kPack, int kGroup, class T, int kMaps, class F>
__global__ void __launch_bounds__(kThreads, kBlocksAnSM<kMaps>) plane_sum_kernel(const ChannelMaps<T, kMaps> maps, const F f) {
  using A = accumulator_t<T>;
  const auto& walk = maps.walk;
  const int64_t plane = static_cast<int64_t>(blockIdx.x) * (kThreads / kGroup) + threadIdx.x / kGroup;
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  const int64_t n = plane / walk.c, c = plane % walk.c;
  const bool inside = n < walk.n;
  A sums[kPack] = {};
  if (inside) {
    A prepared[kPack];
    prepare_channels<kPack, false>(maps, n, c, f, prepared);
    const int64_t columns = walk.w / kPack;
    for (int64_t y = 0; y < walk.h; ++y)
      for (int64_t p = lane; p < columns; p += kGroup)
        channel_packs<kInputs, kPack, true>(maps, n, c, y, p * kPack, prepared, f, sums);
  }
  A sum = 0;
#pragma unroll
  for (int k = 0; k < kPack; ++k) sum += sums[k];
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
  if constexpr (kGroup > kWarp) {
    __shared__ A of_warp[kThreads / kWarp];
    if (lane % kWarp == 0) of_warp[lane / kWarp] = sum;
    __syncthreads();
    sum = 0;
#pragma unroll
    for (int warp = 0; warp < kGroup / kWarp; ++warp) sum += of_warp[warp];
  }
  if (inside && lane == 0) finish_channel(maps, n, c, sum, f);
}

/// `across` neighbouring threads take neighbouring packs of channels, the block's other threads other pixels.
/// partial: (n, blocks, c).
template <int kInputs, int kPack, class T, int kMaps, class F>
__global__ void __launch_bounds__(kThreads, kBlocksAnSM<kMaps>)
    pixel_sum_kernel(const ChannelMaps<T, kMaps> maps, const int across, const unsigned slices, const unsigned blocks,
                     const int64_t block, accumulator_t<T>* partial, const F f) {
  using A = accumulator_t<T>;
  const auto& walk = maps.walk;
  const unsigned unit = blockIdx.x;
  const int64_t slice = unit % slices, b = unit / slices % blocks, n = unit / slices / blocks, pixels = walk.h * walk.w;
  const int thread = static_cast<int>(threadIdx.x), lane = thread / across, lanes = kThreads / across;
  const int64_t c = (slice * across + thread % across) * kPack;
  const int64_t end = (b + 1) * block < pixels ? (b + 1) * block : pixels;
  A sums[kPack] = {};
  if (c < walk.c) {
    A prepared[kPack];
    prepare_channels<kPack, true>(maps, n, c, f, prepared);
    for (int64_t pixel = b * block + lane; pixel < end; pixel += lanes) {
      const int64_t y = walk.h == 1 ? 0 : pixel / walk.w;  // a 64-bit division costs as much as the rest
      channel_packs<kInputs, kPack, true>(maps, n, c, y, pixel - y * walk.w, prepared, f, sums);
    }
  }
  __shared__ A of_thread[kPack][kThreads];
#pragma unroll
  for (int k = 0; k < kPack; ++k) of_thread[k][thread] = sums[k];
  __syncthreads();
  // Thread t adds up channel t of the slice, kPack * across of them.
  for (int t = thread; t < kPack * across; t += kThreads) {
    const int64_t channel = (slice * across + t / kPack) * kPack + t % kPack;
    A sum = 0;
    for (int l = 0; l < lanes; ++l) sum += of_thread[t % kPack][l * across + t / kPack];
    if (channel < walk.c) partial[(n * blocks + b) * walk.c + channel] = sum;
  }
}

template <class T, int kMaps, class F>
__global__ void __launch_bounds__(kThreads)
    finish_sum_kernel(const ChannelMaps<T, kMaps> maps, const accumulator_t<T>* partial, const int64_t blocks, const F f) {
  using A = accumulator_t<T>;
  const auto& walk = maps.walk;
  const int64_t k = global_thread<int64_t>(), n = k / walk.c, c = k % walk.c;
  if (n >= walk.n) return;
  A sum = 0;
  for (int64_t b = 0; b < blocks; ++b) sum += partial[(n * blocks + b) * walk.c + c];
  finish_channel(maps, n, c, sum, f);
}

template <int kInputs, class T, size_t kMaps, class F>
void channelwise(const std::array<View, kMaps>& views, const View& value, F f, const Tensor& on) {
  constexpr int kPack = 16 / sizeof(T);
  const auto maps = channel_maps<T>(views, value, value, kInputs);
  const auto& walk = maps.walk;
  const int64_t elements = walk.n * walk.c * walk.h * walk.w;
  const auto go = [&]<int kWidth, bool kByPixels, class Index>() {
    const int64_t packs = elements / kWidth;
    launch(channelwise_kernel<kInputs, kWidth, kByPixels, Index, T, kMaps, F>, (packs + kThreads - 1) / kThreads,
           kThreads, on, maps, static_cast<Index>(packs), f);
  };
  const auto width = [&]<bool kByPixels, class Index>() {
    packable<kPack>(maps) ? go.template operator()<kPack, kByPixels, Index>()
                          : go.template operator()<1, kByPixels, Index>();
  };
  const auto walked = [&]<class Index>() {
    walk.by_pixels ? width.template operator()<true, Index>() : width.template operator()<false, Index>();
  };
  elements < INT32_MAX - kThreads ? walked.template operator()<uint32_t>() : walked.template operator()<int64_t>();
}

template <int kInputs, class T, size_t kMaps, class F>
void channelwise_sum(const std::array<View, kMaps>& views, const View& value, const View& sum, F f, const Tensor& on) {
  const auto maps = channel_maps<T>(views, value, sum, kInputs);
  const auto& walk = maps.walk;

  const auto by_planes = [&]<int kPack, int kGroup>() {
    launch(plane_sum_kernel<kInputs, kPack, kGroup, T, kMaps, F>,
           (walk.n * walk.c + kThreads / kGroup - 1) / (kThreads / kGroup), kThreads, on, maps, f);
  };
  const auto by_pixels = [&]<int kPack>() {
    int across = 1;  // up to 32 neighbouring threads, 512 bytes
    while (across < kWarp && across * kPack < walk.c) across *= 2;
    const int64_t slices = (walk.c / kPack + across - 1) / across;
    const int64_t block = kPixelsAThread * (kThreads / across), blocks = (walk.h * walk.w + block - 1) / block;
    const Scratch<accumulator_t<T>> partial(on, walk.n * blocks * walk.c);
    launch(pixel_sum_kernel<kInputs, kPack, T, kMaps, F>, walk.n * blocks * slices, kThreads, on, maps, across,
           static_cast<unsigned>(slices), static_cast<unsigned>(blocks), block, partial.data(), f);
    launch(finish_sum_kernel<T, kMaps, F>, (walk.n * walk.c + kThreads - 1) / kThreads, kThreads, on, maps,
           static_cast<const accumulator_t<T>*>(partial.data()), blocks, f);
  };
  const auto go = [&]<int kPack>() {
    if (walk.by_pixels)
      by_pixels.template operator()<kPack>();
    else if (walk.h * walk.w <= 128 * kPack)
      by_planes.template operator()<kPack, 32>();
    else
      by_planes.template operator()<kPack, kThreads>();
  };
  constexpr int kPack = 16 / sizeof(T);
  packable<kPack>(maps) ? go.template operator()<kPack>() : go.template operator()<1>();
}

}  // namespace fastiqa
