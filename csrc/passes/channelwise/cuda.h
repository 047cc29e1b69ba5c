// The channel-wise pass (pass.h) on a GPU.
//
// Without sums a thread moves one pack of 16 bytes a map, or one element, as in passes/elementwise/cuda.h, and prepares the
// values of that pack itself. With sums, by planes (NCHW): a warp or a block takes a plane, adds up its threads' sums and
// writes the result. By pixels (channels-last): a thread keeps one pack of channels, whose values it prepares once, and
// goes through the pixels of a block; the blocks' sums meet in a second kernel.
#pragma once

#include "core/launch.h"
#include "core/pack.h"
#include "core/scratch.h"
#include "passes/channelwise/api.h"
#include "passes/channelwise/exact_sum.h"

namespace fastiqa {

// ---- operands of a kernel ----

template <class T, int kMaps, class V, int kValues, class S, int kSums>
struct ChannelMaps {
  T* data[kMaps];
  ChannelWalk<kMaps> walk;
  const V* value[kValues];
  int64_t value_stride[kValues][2];  // along n and c
  S* sum[at_least_one(kSums)];
  int64_t sum_stride[at_least_one(kSums)][2];
};

/// Whether maps and, by pixels, values can be moved in packs; values beyond 16 bytes in several.
template <int kPack, class T, int kMaps, class V, int kValues, class S, int kSums>
bool packable(const ChannelMaps<T, kMaps, V, kValues, S, kSums>& maps) {
  const auto& walk = maps.walk;
  const auto aligned = [](const auto* data, int64_t bytes) { return reinterpret_cast<uintptr_t>(data) % bytes == 0; };
  if (!walk.unit_stride() || (walk.by_pixels ? walk.c : walk.w) % kPack != 0) return false;
  for (int o = 0; o < kMaps; ++o) {
    if (!aligned(maps.data[o], 16)) return false;
    for (int d = 0; d < 4; ++d)
      if (d != (walk.by_pixels ? 1 : 3) && walk.stride[o][d] % kPack != 0) return false;
  }
  for (int k = 0; walk.by_pixels && k < kValues; ++k) {
    const auto& stride = maps.value_stride[k];
    if (stride[1] != 1 || stride[0] % kPack != 0 || !aligned(maps.value[k], 16)) return false;
  }
  return true;
}

template <int kInputs, class T, size_t kMaps, class V, size_t kValues, class S, size_t kSums>
auto channel_maps(const Views<T, kMaps>& views, const Views<V, kValues>& values, const Views<S, kSums>& sums) {
  ChannelMaps<T, int{kMaps}, V, int{kValues}, S, int{kSums}> maps{};
  for (size_t o = 0; o < kMaps; ++o) maps.data[o] = static_cast<T*>(views.view[o].data);
  maps.walk = make_channel_walk(views.view, kInputs);
  for (size_t k = 0; k < kValues; ++k) {
    maps.value[k] = static_cast<const V*>(values.view[k].data);
    std::copy_n(values.view[k].strides.begin(), 2, maps.value_stride[k]);
  }
  for (size_t k = 0; k < kSums; ++k) {
    maps.sum[k] = static_cast<S*>(sums.view[k].data);
    std::copy_n(sums.view[k].strides.begin(), 2, maps.sum_stride[k]);
  }
  return maps;
}

// ---- packs of a thread ----

constexpr int kWarp = 32;
/// Blocks an SM of the kernels with sums: 64 registers a thread, where nvcc would take 80; seven maps would spill, and so
/// would what the roundings of exact sums lost.
template <int kMaps, class F>
constexpr int kBlocksAnSM = kExactSums<F> ? 2 : kMaps < 7 ? 4 : 3;
/// Of pixel_sum_kernel with seven maps in packs of eight: three spill up to 40 bytes on Ampere and Hopper.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 1000
constexpr int kBlocksOfSeven = 2;
#else
constexpr int kBlocksOfSeven = 3;
#endif
/// Steps of a loop that are loaded before the first is computed, where no store stands between them: the few warps that
/// exact sums leave an SM would ask too little of memory with one.
template <int kInputs, int kMaps, int kPack>
constexpr int kAhead = kMaps > kInputs ? 1 : kPack > 1 ? 2 : 4;
constexpr int kPlaneSums = 4;  // sums of each kind that a thread keeps of a plane; eight of seven maps spill
constexpr int kPixelsAThread = 32;  // terms of a thread's sum by pixels; the second kernel reads a float for so many

/// What a thread adds up in.
template <class A, class F>
using running_t = std::conditional_t<kExactSums<F>, exact_t<A>, Plain<A>>;

/// The maps' packs at one place, with f applied to them, and its terms added to sums, by turns where these are fewer.
template <int kInputs, int kPack, class T, int kMaps, class V, int kValues, class S, int kSums, class F, class A,
          class R, int kKept>
__device__ void channel_packs(const ChannelMaps<T, kMaps, V, kValues, S, kSums>& maps, int64_t n, int64_t c, int64_t y,
                              int64_t x, const A (&prepared)[kPack][kValues], const F& f,
                              R (&sums)[at_least_one(kSums)][kKept]) {
  T* at[kMaps];
#pragma unroll
  for (int o = 0; o < kMaps; ++o) {
    const auto& stride = maps.walk.stride[o];
    at[o] = maps.data[o] + n * stride[0] + c * stride[1] + y * stride[2] + x * stride[3];
  }
  Pack<T, kPack> in[kInputs], out[at_least_one(kMaps - kInputs)];
#pragma unroll
  for (int o = 0; o < kInputs; ++o) in[o] = Pack<T, kPack>::load(at[o]);
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    A x[kInputs], y[at_least_one(kMaps - kInputs)], term[at_least_one(kSums)];
#pragma unroll
    for (int o = 0; o < kInputs; ++o) x[o] = widen(in[o].element[k]);
    if constexpr (kSums > 0)
      f(x, prepared[k], y, term);
    else
      f(x, prepared[k], y);
#pragma unroll
    for (int s = 0; s < kSums; ++s) sums[s][k % kKept] += term[s];
#pragma unroll
    for (int o = kInputs; o < kMaps; ++o) out[o - kInputs].element[k] = narrow<T>(y[o - kInputs]);
  }
#pragma unroll
  for (int o = kInputs; o < kMaps; ++o) out[o - kInputs].store(at[o]);
}

/// Prepared values of kPack channels of a pixel, or of the one channel of kPack pixels.
template <int kPack, bool kByPixels, class Maps, class V, int kValues, class F, class A>
__device__ void prepare_channels(const Maps& maps, const V* const (&value)[kValues], int64_t n, int64_t c, const F& f,
                                 A (&prepared)[kPack][kValues]) {
  constexpr int kWide = std::min<int>(kPack, 16 / sizeof(V));  // values in 16 bytes
#pragma unroll
  for (int v = 0; v < kValues; ++v) {
    const V* from = value[v] + n * maps.value_stride[v][0] + c * maps.value_stride[v][1];
#pragma unroll
    for (int k = 0; k < kPack; k += kWide) {
      if constexpr (kByPixels) {
        const auto values = Pack<V, kWide>::load(from + k);
#pragma unroll
        for (int j = 0; j < kWide; ++j) prepared[k + j][v] = widen(values.element[j]);
      } else {
#pragma unroll
        for (int j = 0; j < kWide; ++j) prepared[k + j][v] = widen(*from);
      }
    }
  }
  if constexpr (requires { f.prepare(prepared[0]); }) {
    f.prepare(prepared[0]);
#pragma unroll
    for (int k = 1; k < kPack; ++k) {
      if constexpr (kByPixels) f.prepare(prepared[k]);
    }
  }
  if constexpr (!kByPixels) {
#pragma unroll
    for (int k = 1; k < kPack; ++k)
#pragma unroll
      for (int v = 0; v < kValues; ++v) prepared[k][v] = prepared[0][v];
  }
}

// ---- kernels and the pass ----

template <int kInputs, int kPack, bool kByPixels, class Index, class T, int kMaps, class V, int kValues, class F>
__global__ void __launch_bounds__(kThreads)
    channelwise_kernel(const ChannelMaps<T, kMaps, V, kValues, V, 0> maps, const Index packs, const F f) {
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
  A prepared[kPack][kValues];
  Plain<A> none[1][kPack];
  prepare_channels<kPack, kByPixels>(maps, maps.value, n, c, f, prepared);
  channel_packs<kInputs, kPack>(maps, n, c, y, x, prepared, f, none);
}

/// Writes the sums of a channel, as what they stand for.
template <class A, class T, int kMaps, class V, int kValues, class S, int kSums, class R, class F>
__device__ void finish_channel(const ChannelMaps<T, kMaps, V, kValues, S, kSums>& maps, int64_t n, int64_t c,
                               const R (&sums)[kSums], const F& f) {
  const auto at = [&](int s) { return maps.sum[s] + n * maps.sum_stride[s][0] + c * maps.sum_stride[s][1]; };
  if constexpr (kExactSums<F>) {
#pragma unroll
    for (int s = 0; s < kSums; ++s) *at(s) = sums[s];
  } else {
    A value[kValues], sum[kSums];
#pragma unroll
    for (int v = 0; v < kValues; ++v)
      value[v] = widen(maps.value[v][n * maps.value_stride[v][0] + c * maps.value_stride[v][1]]);
#pragma unroll
    for (int s = 0; s < kSums; ++s) sum[s] = sums[s].sum;
    if constexpr (requires { f.finish(value, sum); }) f.finish(value, sum);
#pragma unroll
    for (int s = 0; s < kSums; ++s) *at(s) = narrow<S>(sum[s]);
  }
}

/// A group of kGroup threads, a warp or the block, takes a plane.
template <int kInputs, int kPack, int kGroup, class T, int kMaps, class V, int kValues, class S, int kSums, class F>
__global__ void __launch_bounds__(kThreads, kBlocksAnSM<kMaps, F>)
    plane_sum_kernel(const ChannelMaps<T, kMaps, V, kValues, S, kSums> maps, const F f) {
  using A = accumulator_t<T>;
  using R = running_t<A, F>;
  const auto& walk = maps.walk;
  const int64_t plane = static_cast<int64_t>(blockIdx.x) * (kThreads / kGroup) + threadIdx.x / kGroup;
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  const int64_t n = plane / walk.c, c = plane % walk.c;
  const bool inside = n < walk.n;
  constexpr int kKept = std::min(kPack, kPlaneSums);
  R sums[kSums][kKept] = {};
  if (inside) {
    A prepared[kPack][kValues];
    prepare_channels<kPack, false>(maps, maps.value, n, c, f, prepared);
    const int64_t columns = walk.w / kPack;
    for (int64_t y = 0; y < walk.h; ++y)
#pragma unroll (kAhead<kInputs, kMaps, kPack>)
      for (int64_t p = lane; p < columns; p += kGroup)
        channel_packs<kInputs, kPack>(maps, n, c, y, p * kPack, prepared, f, sums);
  }
  R total[kSums];
#pragma unroll
  for (int s = 0; s < kSums; ++s) {
    total[s] = sums[s][0];
#pragma unroll
    for (int k = 1; k < kKept; ++k) total[s] += sums[s][k];
#pragma unroll
    for (int mask = kWarp / 2; mask > 0; mask /= 2) total[s] += total[s].from_lane(mask);
  }
  if constexpr (kGroup > kWarp) {
    __shared__ R of_warp[kSums][kThreads / kWarp];
#pragma unroll
    for (int s = 0; s < kSums; ++s)
      if (lane % kWarp == 0) of_warp[s][lane / kWarp] = total[s];
    __syncthreads();
#pragma unroll
    for (int s = 0; s < kSums; ++s) {
      total[s] = of_warp[s][0];
#pragma unroll
      for (int warp = 1; warp < kGroup / kWarp; ++warp) total[s] += of_warp[s][warp];
    }
  }
  if (inside && lane == 0) finish_channel<A>(maps, n, c, total, f);
}

/// `across` neighbouring threads take neighbouring packs of channels, the block's other threads other pixels.
/// partial: (kSums, n, blocks, c).
template <int kInputs, int kPack, class T, int kMaps, class V, int kValues, class S, int kSums, class F>
__global__ void __launch_bounds__(kThreads, kMaps == 7 && kPack == 8 ? kBlocksOfSeven : kBlocksAnSM<kMaps, F>)
    pixel_sum_kernel(const ChannelMaps<T, kMaps, V, kValues, S, kSums> maps, const int across, const unsigned slices,
                     const unsigned blocks, const int64_t block, running_t<accumulator_t<T>, F>* partial, const F f) {
  using A = accumulator_t<T>;
  using R = running_t<A, F>;
  const auto& walk = maps.walk;
  const unsigned unit = blockIdx.x;
  const int64_t slice = unit % slices, b = unit / slices % blocks, n = unit / slices / blocks, pixels = walk.h * walk.w;
  const int thread = static_cast<int>(threadIdx.x), lane = thread / across, lanes = kThreads / across;
  const int64_t c = (slice * across + thread % across) * kPack;
  const int64_t end = (b + 1) * block < pixels ? (b + 1) * block : pixels;
  R sums[kSums][kPack] = {};
  if (c < walk.c) {
    A prepared[kPack][kValues];
    prepare_channels<kPack, true>(maps, maps.value, n, c, f, prepared);
#pragma unroll (kAhead<kInputs, kMaps, kPack>)
    for (int64_t pixel = b * block + lane; pixel < end; pixel += lanes) {
      const int64_t y = walk.h == 1 ? 0 : pixel / walk.w;  // a 64-bit division costs as much as the rest
      channel_packs<kInputs, kPack>(maps, n, c, y, pixel - y * walk.w, prepared, f, sums);
    }
  }
  __shared__ R of_thread[kPack][kThreads];
#pragma unroll
  for (int s = 0; s < kSums; ++s) {
    if (s > 0) __syncthreads();
#pragma unroll
    for (int k = 0; k < kPack; ++k) of_thread[k][thread] = sums[s][k];
    __syncthreads();
    // Thread t adds up channel t of the slice, kPack * across of them.
    for (int t = thread; t < kPack * across; t += kThreads) {
      const int64_t channel = (slice * across + t / kPack) * kPack + t % kPack;
      R sum = of_thread[t % kPack][t / kPack];
      for (int l = 1; l < lanes; ++l) sum += of_thread[t % kPack][l * across + t / kPack];
      if (channel < walk.c) partial[((s * walk.n + n) * blocks + b) * walk.c + channel] = sum;
    }
  }
}

template <class T, int kMaps, class V, int kValues, class S, int kSums, class R, class F>
__global__ void __launch_bounds__(kThreads)
    finish_sum_kernel(const ChannelMaps<T, kMaps, V, kValues, S, kSums> maps, const R* partial, const int64_t blocks,
                      const F f) {
  const auto& walk = maps.walk;
  const int64_t k = global_thread<int64_t>(), n = k / walk.c, c = k % walk.c;
  if (n >= walk.n) return;
  R sums[kSums];
#pragma unroll
  for (int s = 0; s < kSums; ++s) {
    const R* from = partial + (s * walk.n + n) * blocks * walk.c + c;
    sums[s] = from[0];
    for (int64_t b = 1; b < blocks; ++b) sums[s] += from[b * walk.c];
  }
  finish_channel<accumulator_t<T>>(maps, n, c, sums, f);
}

template <class F>
__global__ void __launch_bounds__(kThreads) each_channel_kernel(const int64_t count, const F f) {
  const int64_t c = global_thread<int64_t>();
  if (c < count) f(c);
}

template <int kInputs, class T, size_t kMaps, class V, size_t kValues, class F>
void channelwise(const Views<T, kMaps>& views, const Views<V, kValues>& values, F f, const Tensor& on) {
  constexpr int kPack = 16 / sizeof(T);
  const auto maps = channel_maps<kInputs>(views, values, Views<V, 0>{});
  const auto& walk = maps.walk;
  const int64_t elements = walk.n * walk.c * walk.h * walk.w;
  const auto go = [&]<int kWidth, bool kByPixels, class Index>() {
    const int64_t packs = elements / kWidth;
    launch(channelwise_kernel<kInputs, kWidth, kByPixels, Index, T, int{kMaps}, V, int{kValues}, F>,
           (packs + kThreads - 1) / kThreads, kThreads, on, maps, static_cast<Index>(packs), f);
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

template <int kInputs, class T, size_t kMaps, class V, size_t kValues, class S, size_t kSums, class F>
void channelwise_sum(const Views<T, kMaps>& views, const Views<V, kValues>& values,
                     const Views<S, kSums>& sums, F f, const Tensor& on) {
  using R = running_t<accumulator_t<T>, F>;
  const auto maps = channel_maps<kInputs>(views, values, sums);
  const auto& walk = maps.walk;

  const auto by_planes = [&]<int kPack, int kGroup>() {
    launch(plane_sum_kernel<kInputs, kPack, kGroup, T, int{kMaps}, V, int{kValues}, S, int{kSums}, F>,
           (walk.n * walk.c + kThreads / kGroup - 1) / (kThreads / kGroup), kThreads, on, maps, f);
  };
  const auto by_pixels = [&]<int kPack>() {
    int across = 1;  // up to 32 neighbouring threads, 512 bytes
    while (across < kWarp && across * kPack < walk.c) across *= 2;
    const int64_t slices = (walk.c / kPack + across - 1) / across;
    const int64_t block = kPixelsAThread * (kThreads / across), blocks = (walk.h * walk.w + block - 1) / block;
    const Scratch<R> partial(on, int{kSums} * walk.n * blocks * walk.c);
    launch(pixel_sum_kernel<kInputs, kPack, T, int{kMaps}, V, int{kValues}, S, int{kSums}, F>, walk.n * blocks * slices,
           kThreads, on, maps, across, static_cast<unsigned>(slices), static_cast<unsigned>(blocks), block,
           partial.data(), f);
    launch(finish_sum_kernel<T, int{kMaps}, V, int{kValues}, S, int{kSums}, R, F>,
           (walk.n * walk.c + kThreads - 1) / kThreads, kThreads, on, maps, static_cast<const R*>(partial.data()),
           blocks, f);
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

template <class F>
void each_channel(int64_t count, F f, const Tensor& on) {
  launch(each_channel_kernel<F>, (count + kThreads - 1) / kThreads, kThreads, on, count, f);
}

}  // namespace fastiqa
