// mix_kernels on a GPU: the kernels of a convolution mixed by the rows of a small matrix, and the gradients.
//
//   forward    mix (R,S,K), weight (K,C,k,k) -> (R,SC,k,k)                  reads the weight
//   backward   grad (R,SC,k,k), mix, weight -> (R,S,K), (K,C,k,k)           reads the weight, writes its gradient
//
//   out = mix weight              sums_kernel, collect_kernel: a thread has a pack of columns and some kernels
//   grad_mix = grad weight^T      dots_kernel: a block has one or two kernels
//   grad_weight = mix^T grad      outer_kernel: a thread has a pack of columns of four kernels
//
// Columns as in api.h; a pack of them is 16 bytes of the weight, 8 where a thread has many sums, or one. The rows of
// grad are gathered first, in the order of the columns. Many rows, of mix or grad, are taken some at a time: side by side
// in the grid, so that the weight comes from memory once.
#include "core/launch.h"
#include "core/pack.h"
#include "core/scratch.h"
#include "ops/mix_kernels/api.h"

namespace fastiqa {
namespace {

constexpr int kBlocksOnSm = 4;    // holds nvcc to 64 registers
constexpr int64_t kFill = 512;    // blocks that fill a device
constexpr int64_t kLength = 128;  // most kernels of a part of sums_kernel
constexpr int kFew = 2;           // rows at a time; three to six of more, as many as fit the registers
constexpr int kOuter = 4;         // kernels of a thread of outer_kernel

FASTIQA_HD int64_t ceil_div(int64_t x, int64_t by) { return (x + by - 1) / by; }

/// A weight or its gradient.
template <class T>
struct Kernels {
  T* data;
  int64_t count, stride;
  Columns columns;

  __device__ T* at(int64_t j, int64_t n) const { return data + j * stride + columns.at(n); }
};

template <class T>
Kernels<T> kernels_of(const Tensor& x, const Tensor& weight) {
  return {data_of<T>(x), x.sizes()[0], x.strides()[0], columns_of(x, weight)};
}

/// Whether all accesses may be packs of `pack` elements.
template <class T>
bool packable(const Kernels<T>& x, int64_t pack) {
  const auto& [size, stride] = x.columns;
  return stride[0] == 1 && size[0] % pack == 0 && stride[1] % pack == 0 && stride[2] % pack == 0 &&
         (x.count == 1 || x.stride % pack == 0) && reinterpret_cast<uintptr_t>(x.data) % (pack * sizeof(T)) == 0;
}

template <class T, int kPack>
__device__ void load(const T* from, accumulator_t<T> (&to)[kPack]) {
  constexpr int kStep = std::min<int>(kPack, 16 / sizeof(T));
#pragma unroll
  for (int e = 0; e < kPack; e += kStep) {
    const auto pack = Pack<T, kStep>::load(from + e);
#pragma unroll
    for (int k = 0; k < kStep; ++k) to[e + k] = widen(pack.element[k]);
  }
}

// ---- kernels ----

/// parts[part][m][n]: sums over `length` kernels, at most kLength; blocks are tiles of columns, groups of rows, parts.
template <class T, int kPack, int kRows>
__global__ void __launch_bounds__(kThreads, kBlocksOnSm)
    sums_kernel(const Rows<const T> mix, const int64_t step, const Kernels<const T> weight, const int64_t tiles,
                const int64_t length, accumulator_t<T>* parts) {
  using A = accumulator_t<T>;
  constexpr int kUnrolled = kRows == kFew ? 4 : 2;
  __shared__ A factors[kLength][kRows];
  const int64_t block = blockIdx.x, columns = weight.columns.count(), groups = ceil_div(mix.count, kRows);
  const int64_t m = block / tiles % groups * kRows, part = block / tiles / groups, j = part * length;
  const int count = static_cast<int>(std::min(length, weight.count - j)), thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < count * kRows; i += kThreads)
    factors[i / kRows][i % kRows] =
        m + i % kRows < mix.count ? A(widen(mix[m + i % kRows][(j + i / kRows) * step])) : A(0);
  __syncthreads();
  const int64_t n = (block % tiles * kThreads + thread) * kPack;
  if (n >= columns) return;
  const T* at = weight.at(j, n);
  A sum[kRows][kPack] = {};
#pragma unroll kUnrolled
  for (int k = 0; k < count; ++k) {
    A w[kPack];
    load(at + k * weight.stride, w);
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int e = 0; e < kPack; ++e) sum[r][e] += factors[k][r] * w[e];
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (m + r >= mix.count) break;
#pragma unroll
    for (int e = 0; e < kPack; ++e) parts[(part * mix.count + m + r) * columns + n + e] = sum[r][e];
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    collect_kernel(const accumulator_t<T>* parts, const int64_t count, const Rows<T> out, const Columns columns) {
  const int64_t i = global_thread<int64_t>(), all = columns.count(), m = i / all;
  if (m >= out.count) return;
  accumulator_t<T> sum = 0;
#pragma unroll 4
  for (int64_t part = 0; part < count; ++part) sum += parts[part * out.count * all + i];
  out[m][columns.at(i % all)] = narrow<T>(sum);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const Rows<const T> grad, const Columns columns, accumulator_t<T>* gathered) {
  const int64_t i = global_thread<int64_t>(), all = columns.count(), m = i / all;
  if (m < grad.count) gathered[i] = widen(grad[m][columns.at(i % all)]);
}

/// Of rows [m, m + kRows) with kernels [j, j + kTogether), over all columns.
template <class T, int kPack, int kRows, int kTogether>
__global__ void __launch_bounds__(kThreads, kBlocksOnSm)
    dots_kernel(const accumulator_t<T>* grad, const Kernels<const T> weight, const Rows<T> out, const int64_t step) {
  using A = accumulator_t<T>;
  constexpr int kWarps = kThreads / 32, kSums = kRows * kTogether;
  __shared__ A of_warp[kWarps][kSums];
  const int64_t groups = (out.count + kRows - 1) / kRows, columns = weight.columns.count();
  const int64_t block = blockIdx.x, m = block % groups * kRows, j = block / groups * kTogether;
  const int thread = static_cast<int>(threadIdx.x);
  const T* kernels[kTogether];
#pragma unroll
  for (int k = 0; k < kTogether; ++k) kernels[k] = weight.at(std::min(j + k, weight.count - 1), 0);
  A sum[kSums] = {};
#pragma unroll 1
  for (int64_t n = thread * kPack; n < columns; n += kThreads * kPack) {
    const int64_t offset = weight.columns.at(n);
    A w[kTogether][kPack];
#pragma unroll
    for (int k = 0; k < kTogether; ++k) load(kernels[k] + offset, w[k]);
    const A* g_at = grad + m * columns + n;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      A g[kPack];
      load(g_at, g);
      g_at += columns;
#pragma unroll
      for (int k = 0; k < kTogether; ++k)
#pragma unroll
        for (int e = 0; e < kPack; ++e) sum[r * kTogether + k] += g[e] * w[k][e];
    }
  }
#pragma unroll
  for (int s = 0; s < kSums; ++s) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) sum[s] += __shfl_xor_sync(0xffffffffu, sum[s], mask);
    if (thread % 32 == 0) of_warp[thread / 32][s] = sum[s];
  }
  __syncthreads();
  const int r = thread / kTogether, k = thread % kTogether;
  if (r >= kRows || m + r >= out.count || j + k >= weight.count) return;
  A total = of_warp[0][thread];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) total += of_warp[warp][thread];
  out[m + r][(j + k) * step] = narrow<T>(total);
}

template <class T, int kPack>
__global__ void __launch_bounds__(kThreads, kBlocksOnSm)
    outer_kernel(const accumulator_t<T>* grad, const Rows<const T> mix, const int64_t step, const Kernels<T> weight,
                 const int64_t threads) {
  using A = accumulator_t<T>;
  const int64_t t = global_thread<int64_t>();
  if (t >= threads) return;
  const int64_t columns = weight.columns.count(), packs = columns / kPack;
  const int64_t n = t % packs * kPack, j = t / packs * kOuter;
  A sum[kOuter][kPack] = {};
  for (int64_t m = 0; m < mix.count; ++m) {
    const T* factors = mix[m];
    A g[kPack];
    load(grad + m * columns + n, g);
#pragma unroll
    for (int k = 0; k < kOuter; ++k) {
      const A factor = widen(factors[std::min(j + k, weight.count - 1) * step]);
#pragma unroll
      for (int e = 0; e < kPack; ++e) sum[k][e] += factor * g[e];
    }
  }
#pragma unroll
  for (int k = 0; k < kOuter; ++k) {
    if (j + k >= weight.count) break;
    Pack<T, kPack> pack;
#pragma unroll
    for (int e = 0; e < kPack; ++e) pack.element[e] = narrow<T>(sum[k][e]);
    pack.store(weight.at(j + k, n));
  }
}

// ---- launchers ----

/// f<elements of a pack, rows at a time>
template <int kMany, class T, class F>
void by_pack_and_rows(const Kernels<const T>& weight, int64_t rows, F f) {
  constexpr int kPack = 16 / sizeof(T), kHalf = std::min(kPack, 4);
  if (packable(weight, kPack))
    rows <= kFew ? f.template operator()<kPack, kFew>() : f.template operator()<kHalf, kMany>();
  else
    rows <= kFew ? f.template operator()<1, kFew>() : f.template operator()<1, kMany>();
}

void mix_kernels(Tensor mix, Tensor weight, Tensor out) {
  check_mix_kernels(mix, weight, out);
  visit_dtype(mix, [&]<class T>() {
    using A = accumulator_t<T>;
    const auto rows = rows_of<const T>(mix);
    const auto kernels = kernels_of<const T>(weight, weight);
    const int64_t columns = kernels.columns.count();
    by_pack_and_rows<(sizeof(T) == 8 ? 4 : 6)>(kernels, rows.count, [&]<int kPack, int kRows>() {
      const int64_t tiles = ceil_div(columns / kPack, kThreads), blocks = tiles * ceil_div(rows.count, kRows);
      const int64_t length = std::clamp<int64_t>(kernels.count * blocks / kFill, 16, kLength);
      const int64_t parts = ceil_div(kernels.count, length);
      const Scratch<A> sums(mix, parts * rows.count * columns);
      launch(sums_kernel<T, kPack, kRows>, blocks * parts, kThreads, mix, rows, mix.strides()[2], kernels, tiles, length,
             sums.data());
      launch(collect_kernel<T>, ceil_div(rows.count * columns, kThreads), kThreads, mix,
             static_cast<const A*>(sums.data()), parts, rows_of<T>(out, weight.sizes()[1]), columns_of(out, weight));
    });
  });
}

void mix_kernels_backward(Tensor grad, Tensor mix, Tensor weight, Tensor grad_mix, Tensor grad_weight) {
  check_mix_kernels_backward(grad, mix, weight, grad_mix, grad_weight);
  visit_dtype(mix, [&]<class T>() {
    using A = accumulator_t<T>;
    const auto rows = rows_of<const T>(grad, weight.sizes()[1]);
    const auto kernels = kernels_of<const T>(weight, weight);
    const auto to = kernels_of<T>(grad_weight, weight);
    const int64_t columns = kernels.columns.count();
    const Scratch<A> gathered(mix, (rows.count + 2) * columns);  // whole groups of rows, of at most three
    const A* g = gathered.data();
    launch(gather_kernel<T>, ceil_div(rows.count * columns, kThreads), kThreads, mix, rows, columns_of(grad, weight),
           gathered.data());
    by_pack_and_rows<3>(kernels, rows.count, [&]<int kPack, int kRows>() {
      constexpr int kTogether = kRows == kFew ? 1 : 2;
      launch(dots_kernel<T, kPack, kRows, kTogether>, ceil_div(kernels.count, kTogether) * ceil_div(rows.count, kRows),
             kThreads, mix, g, kernels, rows_of<T>(grad_mix), grad_mix.strides()[2]);
    });
    constexpr int kPack = 16 / sizeof(T);
    const bool packs = packable(to, kPack);
    const int64_t threads = columns / (packs ? kPack : 1) * ceil_div(kernels.count, kOuter);
    launch(packs ? outer_kernel<T, kPack> : outer_kernel<T, 1>, ceil_div(threads, kThreads), kThreads, mix, g,
           rows_of<const T>(mix), mix.strides()[2], to, threads);
  });
}

}  // namespace

FASTIQA_REGISTER(mix_kernels, "mix_kernels(Tensor mix, Tensor weight, Tensor(a!) out) -> ()")
FASTIQA_REGISTER(mix_kernels_backward,
                 "mix_kernels_backward(Tensor grad, Tensor mix, Tensor weight, Tensor(a!) grad_mix, "
                 "Tensor(b!) grad_weight) -> ()")

}  // namespace fastiqa
