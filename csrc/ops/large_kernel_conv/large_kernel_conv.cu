// large_kernel_conv on a GPU: a block runs both convolutions on a tile, with the map between them in shared memory.
//
//   forward           x, w5, b5, w7, b7 -> y
//   input_backward    grad, w5, w7 -> grad_x           the same with kernels turned by half, in the other order
//   backward          x, w5, b5, w7, grad -> all       input_backward, and sums: partial ones a block, then their total
#include "core/scratch.h"
#include "ops/large_kernel_conv/api.h"
#include "ops/large_kernel_conv/depthwise_cuda.h"

namespace fastiqa {
namespace {

constexpr int kTileThreads = 96;

template <int K1, int D1, int K2, int D2, int kColumns, int kChannels, class T>
__global__ void __launch_bounds__(kTileThreads, 10)  // holds nvcc to 64 registers; left alone float64 takes 70
    two_convolutions_kernel(const Strided<T> in, const Kernel<T> first, const Kernel<T> second,
                            const Strided<T> out, const Size size) {
  using A = accumulator_t<T>;
  constexpr int kHalo2 = D2 * (K2 / 2), kHalo = kHalo2 + D1 * (K1 / 2), kMiddle = kColumns + 2 * kHalo2;
  __shared__ A inputs[(kRows + 2 * kHalo) * (kColumns + 2 * kHalo) * kChannels];
  __shared__ A between[(kRows + 2 * kHalo2) * kMiddle * kChannels];
  __shared__ A weight1[kChannels * K1 * K1], weight2[kChannels * K2 * K2];
  const int64_t columns = (size.w + kColumns - 1) / kColumns, rows = (size.h + kRows - 1) / kRows;
  const int64_t groups = (size.c + kChannels - 1) / kChannels, block = blockIdx.x;
  const int64_t x0 = block % columns * kColumns, y0 = block / columns % rows * kRows;
  const int64_t c0 = block / columns / rows % groups * kChannels, n = block / columns / rows / groups;

  load_kernel<K1, kChannels>(first, size, c0, weight1, kTileThreads);
  load_kernel<K2, kChannels>(second, size, c0, weight2, kTileThreads);
  load_tile<kHalo, kColumns, kChannels>(in, size, n, c0, y0, x0, inputs, kTileThreads);
  __syncthreads();
  convolve<K1, D1, 6, kHalo2, kColumns, kChannels>(inputs, weight1, kTileThreads, [&](int row, int column, int channel,
                                                                                       A sum) {
    const int64_t y = y0 - kHalo2 + row, x = x0 - kHalo2 + column;
    const bool inside = y >= 0 && y < size.h && x >= 0 && x < size.w;
    between[(row * kMiddle + column) * kChannels + channel] = inside ? sum + bias_of(first, size, c0 + channel) : A(0);
  });
  __syncthreads();
  convolve<K2, D2, kStrip, 0, kColumns, kChannels>(between, weight2, kTileThreads, [&](int row, int column, int channel,
                                                                                       A sum) {
    const int64_t y = y0 + row, x = x0 + column, c = c0 + channel;
    if (y < size.h && x < size.w && c < size.c) *out.at(n, c, y, x) = narrow<T>(sum + bias_of(second, size, c));
  });
}

/// out = second(first(in)).
template <int K1, int D1, int K2, int D2, class T>
void two_convolutions(const Tensor& in, const Kernel<T>& first, const Kernel<T>& second, const Tensor& out) {
  const auto& s = in.sizes();
  const Size size{s[0], s[1], s[2], s[3]};
  const auto go = [&]<int kColumns, int kChannels>() {
    const int64_t tiles = ((size.w + kColumns - 1) / kColumns) * ((size.h + kRows - 1) / kRows);
    launch(two_convolutions_kernel<K1, D1, K2, D2, kColumns, kChannels, T>,
           size.n * ((size.c + kChannels - 1) / kChannels) * tiles, kTileThreads, in, strided<T>(in), first, second,
           strided_written<T>(out), size);
  };
  if constexpr (sizeof(accumulator_t<T>) == 4)
    if (in.strides()[1] == 1 && size.c > 1) return go.template operator()<8, 4>();
  go.template operator()<32, 1>();
}

template <class T>
Kernel<T> kernel_of(const Tensor& weight, const Tensor* bias, bool turned) {
  return {strided<T>(weight), bias != nullptr ? strided<T>(*bias) : Strided<T>{nullptr, {}}, turned};
}

void large_kernel_conv(Tensor x, Tensor w5, Tensor b5, Tensor w7, Tensor b7, Tensor out) {
  check_large_kernel_conv(x, w5, b5, w7, b7, out);
  visit_dtype(x, [&]<class T>() {
    two_convolutions<5, 1, 7, 3, T>(x, kernel_of<T>(w5, &b5, false), kernel_of<T>(w7, &b7, false), out);
  });
}

void large_kernel_conv_input_backward(Tensor grad, Tensor w5, Tensor w7, Tensor grad_x) {
  check_large_kernel_conv_input_backward(grad, w5, w7, grad_x);
  visit_dtype(grad, [&]<class T>() {
    two_convolutions<7, 3, 5, 1, T>(grad, kernel_of<T>(w7, nullptr, true), kernel_of<T>(w5, nullptr, true), grad_x);
  });
}

// ---- gradients of weights ----

constexpr int kNear = 25, kFar = 49, kSums = kNear + kFar + 2;  // of a channel: w5, w7, b5, b7
constexpr int kWarps = 8;                                       // one a column of the larger kernel, and one for biases
constexpr int kSumThreads = 32 * kWarps;
constexpr int kTilesABlock = 16;  // fixed, as is the order of sums

/// The sum over a warp's lanes, in all of them.
template <class A>
__device__ A warp_sum(A x) {
  for (int mask = 16; mask > 0; mask /= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
  return x;
}

/// Sums of one channel over some of its tiles. A warp owns a column of each kernel.
template <int kColumns, class T>
__global__ void __launch_bounds__(kSumThreads, sizeof(T) <= 4 ? 4 : 3)  // float64 spills in 64 registers
    sums_kernel(const Strided<T> x_map, const Strided<T> grad_map, const Kernel<T> near, const Kernel<T> far_adjoint,
                accumulator_t<T>* partial, const Size size, const int64_t tiles, const int64_t chunks) {
  using A = accumulator_t<T>;
  constexpr int kWide = kColumns + 18, kSumStrip = sizeof(A) == 4 ? kStrip : kStrip / 2;
  __shared__ A xs[(kRows + 22) * (kColumns + 22)], ts[(kRows + 18) * kWide], gs[(kRows + 18) * kWide];
  __shared__ A gts[kRows * kColumns], weight5[kNear], weight7[kFar], totals[kSums];
  const int64_t columns = (size.w + kColumns - 1) / kColumns, rows = (size.h + kRows - 1) / kRows;
  const int64_t c = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
  const int kx = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  load_kernel<5, 1>(near, size, c, weight5, kSumThreads);
  load_kernel<7, 1>(far_adjoint, size, c, weight7, kSumThreads);
  // A tile's sums are added to these by the warp that has them: over all tiles, registers would hold them idle.
  for (int i = static_cast<int>(threadIdx.x); i < kSums; i += kSumThreads) totals[i] = 0;

  const int64_t end = (chunk + 1) * kTilesABlock < tiles ? (chunk + 1) * kTilesABlock : tiles;
  for (int64_t tile = chunk * kTilesABlock; tile < end; ++tile) {
    const int64_t x0 = tile % columns * kColumns, y0 = tile / columns % rows * kRows, n = tile / columns / rows;
    __syncthreads();
    load_tile<11, kColumns, 1>(x_map, size, n, c, y0, x0, xs, kSumThreads);
    load_tile<9, kColumns, 1>(grad_map, size, n, c, y0, x0, gs, kSumThreads);
    __syncthreads();
    convolve<5, 1, kSumStrip, 9, kColumns, 1, 2>(xs, weight5, kSumThreads, [&](int row, int column, int, A sum) {
      const int64_t y = y0 - 9 + row, x = x0 - 9 + column;
      const bool inside = y >= 0 && y < size.h && x >= 0 && x < size.w;
      ts[row * kWide + column] = inside ? sum + bias_of(near, size, c) : A(0);
    });
    convolve<7, 3, kSumStrip, 0, kColumns, 1, 2>(gs, weight7, kSumThreads, [&](int row, int column, int, A sum) {
      gts[row * kColumns + column] = sum;
    });
    __syncthreads();
    A far_sum[7] = {}, near_sum[5] = {};  // of the last warp the first alone, a bias's
    for (int i = lane; i < kRows * kColumns; i += 32) {
      const int row = i / kColumns, column = i % kColumns;
      if (y0 + row >= size.h || x0 + column >= size.w) continue;  // where an infinity of x would meet a zero
      const A g = gs[(row + 9) * kWide + column + 9];
      if (kx == 7) {
        far_sum[0] += g;
        near_sum[0] += gts[i];
        continue;
      }
#pragma unroll
      for (int ky = 0; ky < 7; ++ky) far_sum[ky] += g * ts[(row + 3 * ky) * kWide + column + 3 * kx];
      if (kx >= 5) continue;
#pragma unroll
      for (int ky = 0; ky < 5; ++ky) near_sum[ky] += gts[i] * xs[(row + 9 + ky) * (kColumns + 22) + column + 9 + kx];
    }
#pragma unroll
    for (int ky = 0; ky < 7; ++ky) {
      const A sum = warp_sum(far_sum[ky]);
      if (lane == 0 && kx < 7) totals[kNear + ky * 7 + kx] += sum;
      if (lane == 0 && kx == 7 && ky == 0) totals[kSums - 1] += sum;
    }
#pragma unroll
    for (int ky = 0; ky < 5; ++ky) {
      const A sum = warp_sum(near_sum[ky]);
      if (lane == 0 && kx < 5) totals[ky * 5 + kx] += sum;
      if (lane == 0 && kx == 7 && ky == 0) totals[kSums - 2] += sum;
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kSums; i += kSumThreads)
    partial[(c * chunks + chunk) * kSums + i] = totals[i];
}

/// One thread a sum: the partial ones in their order.
template <class T>
__global__ void __launch_bounds__(kThreads)
    total_kernel(const accumulator_t<T>* partial, const Strided<T> w5, const Strided<T> b5, const Strided<T> w7,
                 const Strided<T> b7, const Size size, const int64_t chunks) {
  const int64_t i = global_thread<int64_t>();
  if (i >= size.c * kSums) return;
  const int64_t c = i / kSums;
  const int k = static_cast<int>(i % kSums);
  accumulator_t<T> sum = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += partial[(c * chunks + chunk) * kSums + k];
  T* to = k < kNear          ? w5.at(c, 0, k / 5, k % 5)
          : k < kNear + kFar ? w7.at(c, 0, (k - kNear) / 7, (k - kNear) % 7)
          : k == kSums - 2   ? b5.at(c, 0, 0, 0)
                             : b7.at(c, 0, 0, 0);
  *to = narrow<T>(sum);
}

void large_kernel_conv_backward(Tensor x, Tensor w5, Tensor b5, Tensor w7, Tensor grad, Tensor grad_x, Tensor grad_w5,
                                Tensor grad_b5, Tensor grad_w7, Tensor grad_b7) {
  check_large_kernel_conv_backward(x, w5, b5, w7, grad, grad_x, grad_w5, grad_b5, grad_w7, grad_b7);
  large_kernel_conv_input_backward(grad, w5, w7, grad_x);
  visit_dtype(x, [&]<class T>() {
    using A = accumulator_t<T>;
    constexpr int kColumns = sizeof(A) == 4 ? 32 : 8;  // what fits in 48 KiB
    const auto& s = x.sizes();
    const Size size{s[0], s[1], s[2], s[3]};
    const int64_t tiles = size.n * ((size.w + kColumns - 1) / kColumns) * ((size.h + kRows - 1) / kRows);
    const int64_t chunks = (tiles + kTilesABlock - 1) / kTilesABlock;
    const Scratch<A> partial(x, size.c * chunks * kSums);
    launch(sums_kernel<kColumns, T>, size.c * chunks, kSumThreads, x, strided<T>(x), strided<T>(grad),
           kernel_of<T>(w5, &b5, false), kernel_of<T>(w7, nullptr, true), partial.data(), size, tiles, chunks);
    launch(total_kernel<T>, (size.c * kSums + kThreads - 1) / kThreads, kThreads, x,
           static_cast<const A*>(partial.data()), strided_written<T>(grad_w5), strided_written<T>(grad_b5),
           strided_written<T>(grad_w7), strided_written<T>(grad_b7), size, chunks);
  });
}

}  // namespace

FASTIQA_REGISTER(large_kernel_conv_backward,
                 "large_kernel_conv_backward(Tensor x, Tensor w5, Tensor b5, Tensor w7, Tensor grad, Tensor(a!) grad_x, "
                 "Tensor(b!) grad_w5, Tensor(c!) grad_b5, Tensor(d!) grad_w7, Tensor(e!) grad_b7) -> ()")
FASTIQA_REGISTER(large_kernel_conv,
                 "large_kernel_conv(Tensor x, Tensor w5, Tensor b5, Tensor w7, Tensor b7, Tensor(a!) out) -> ()")
FASTIQA_REGISTER(large_kernel_conv_input_backward,
                 "large_kernel_conv_input_backward(Tensor grad, Tensor w5, Tensor w7, Tensor(a!) grad_x) -> ()")

}  // namespace fastiqa
