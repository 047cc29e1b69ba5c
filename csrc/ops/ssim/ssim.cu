// ssim on a GPU: a tile and its halo in shared memory.
//
//   forward    x, y -> ssim, contrast              means: a sum per block; a second kernel adds them in order
//   backward   grads, x, y -> grad_x, grad_y       windows of 11: one kernel, the windows' maps in shared memory too;
//                                                  another size: two kernels, four maps between them in memory
//
// In one kernel the moments of a tile's windows and of a halo of ten are made, 312 multiplications a pixel in float32.
// In two it is 216, and 16 bytes a pixel written and read beside the 16 of x, y and their gradients. The larger windows
// leave no choice: the halo of 64 pixels of two images alone fills 48 KiB.
#include "core/scratch.h"
#include "ops/ssim/api.h"
#include "ops/ssim/similarity_cuda.h"

namespace fastiqa {
namespace {

constexpr int kUsual = 11;  // the size of nearly every window

/// Holds nvcc to 64 registers, float64, which spills in 80, to 128.
template <class A>
constexpr int kBlocksAnSm = sizeof(A) == 4 ? 4 : 2;

// ---- forward ----

/// Values at every window or, if `partial` is not null, their sums per block: (2, blocks).
template <int K, class T, class A = accumulator_t<T>>
__global__ void __launch_bounds__(kThreads, kBlocksAnSm<A>)
    ssim_kernel(const Images<T> images, const Window<A> window, const Stabilisers<A> stabilisers, const Strided<A> ssim,
                const Strided<A> contrast, A* partial, const int64_t blocks) {
  using Tile = tile_t<K, A>;
  __shared__ A pixels[2 * Tile::kPixels], sums[kQuantities * Tile::kSums], of_warp[2][kWarps];
  const int size = K > 0 ? K : window.size, rows = Tile::kHigh - size + 1;
  const int high = images.h - size + 1, wide = images.w - size + 1;
  const Place at = locate(images, rows, Tile::kColumns, high, wide);
  const auto centre = centre_of(images, at, Tile::kHigh, Tile::kColumns + size - 1);
  A total[2] = {};
  each_window<Tile>(images, window, at, centre, least(rows, high - at.y), least(Tile::kColumns, wide - at.x),
                    pixels, sums, [&](int row, int column, const A(&moments)[kQuantities]) {
                      const Similarity<A> here(moments, centre, stabilisers);
                      if (partial == nullptr) {
                        *ssim.at(at.n, at.c, at.y + row, at.x + column) = here.ssim();
                        *contrast.at(at.n, at.c, at.y + row, at.x + column) = here.contrast;
                      } else {
                        total[0] += here.ssim();
                        total[1] += here.contrast;
                      }
                    });
  if (partial == nullptr) return;
  for (int k = 0; k < 2; ++k) {
    const A sum = block_sum(total[k], of_warp[k]);
    if (threadIdx.x == 0) partial[k * blocks + blockIdx.x] = sum;
  }
}

/// One block per plane adds the plane's partial sums, in float64 because there may be many.
template <class A>
__global__ void __launch_bounds__(kThreads)
    ssim_mean_kernel(const A* partial, const int64_t blocks, const int64_t tiles, const int64_t windows,
                     const int64_t channels, const Strided<A> ssim, const Strided<A> contrast) {
  __shared__ double of_warp[2][kWarps];
  const int64_t plane = blockIdx.x;
  for (int k = 0; k < 2; ++k) {
    double total = 0;
    for (int64_t tile = threadIdx.x; tile < tiles; tile += kThreads)
      total += partial[k * blocks + plane * tiles + tile];
    total = block_sum(total, of_warp[k]);
    if (threadIdx.x == 0)
      *(k == 0 ? ssim : contrast).at(plane / channels, plane % channels, 0, 0) = static_cast<A>(total / windows);
  }
}

template <class T>
Images<T> images_of(const Tensor& x, const Tensor& y) {
  return {strided<T>(x), strided<T>(y), x.sizes()[1], static_cast<int>(x.sizes()[2]), static_cast<int>(x.sizes()[3])};
}

void ssim(Tensor x, Tensor y, int64_t size, double sigma, double c1, double c2, bool map, Tensor out, Tensor contrast) {
  check_ssim(x, y, size, map, out, contrast);
  const int64_t planes = x.sizes()[0] * x.sizes()[1], high = x.sizes()[2] - size + 1, wide = x.sizes()[3] - size + 1;
  visit_dtype(x, [&]<class T>() {
    using A = accumulator_t<T>;
    const auto go = [&]<int K>() {
      using Tile = tile_t<K, A>;
      const int64_t count = tiles(high, wide, Tile::kHigh - size + 1, Tile::kColumns), blocks = planes * count;
      const Scratch<A> partial(x, map ? 0 : 2 * blocks);
      launch(ssim_kernel<K, T>, blocks, kThreads, x, images_of<T>(x, y), make_window<A>(size, sigma),
             Stabilisers<A>{static_cast<A>(c1), static_cast<A>(c2)}, strided_written<A>(out),
             strided_written<A>(contrast), map ? nullptr : partial.data(), blocks);
      if (!map)
        launch(ssim_mean_kernel<A>, planes, kThreads, x, static_cast<const A*>(partial.data()), blocks, count,
               high * wide, x.sizes()[1], strided_written<A>(out), strided_written<A>(contrast));
    };
    size == kUsual ? go.template operator()<kUsual>() : go.template operator()<0>();
  });
}

// ---- backward ----

template <class A>
struct Gradients {
  Strided<A> ssim, contrast;  // of no stride along a plane that shares one number
};

/// grad_x and grad_y of a pixel from the maps that the windows spread over it.
template <class T, class A>
__device__ void store_gradients(const Images<T>& images, const Place& at, const Centre<A>& centre, int64_t y, int64_t x,
                                const A (&spread)[kQuantities], const Strided<T>& grad_x, const Strided<T>& grad_y) {
  A of_x, difference;
  load_pixel(images, at, centre, y, x, of_x, difference);
  *grad_x.at(at.n, at.c, y, x) = narrow<T>(spread[0] + of_x * spread[2] - difference * spread[3]);
  *grad_y.at(at.n, at.c, y, x) = narrow<T>(spread[1] + (of_x - difference) * spread[2] + difference * spread[3]);
}

/// grad_x and grad_y of a tile of pixels, in one kernel.
template <class T, class A = accumulator_t<T>>
__global__ void __launch_bounds__(kThreads, kBlocksAnSm<A>)
    ssim_backward_kernel(const Gradients<A> grads, const Images<T> images, const Window<A> window,
                         const Stabilisers<A> stabilisers, const Strided<T> grad_x, const Strided<T> grad_y) {
  using Tile = tile_t<kUsual, A>;
  constexpr int kHalo = kUsual - 1, kRows = Tile::kHigh - kHalo;  // of windows
  constexpr int kPixelRows = kRows - kHalo, kPixelColumns = Tile::kColumns - kHalo, kSpreadPitch = kPixelColumns | 1;
  constexpr int kAcross = sizeof(A) == 4 ? 4 : 3, kDown = sizeof(A) == 4 ? 5 : 4;
  static_assert(kPixelColumns % kAcross == 0);
  // By turns: pixels -> sums of rows -> maps of the windows -> sums of their rows.
  constexpr int kMaps = kRows * Tile::kSumPitch;
  __shared__ A first[std::max(2 * Tile::kPixels, kQuantities * kMaps)], second[kQuantities * Tile::kSums];
  Place at = locate(images, kPixelRows, kPixelColumns, images.h, images.w);
  const int high = images.h - kHalo, wide = images.w - kHalo, y0 = at.y, x0 = at.x;
  at.y -= kHalo, at.x -= kHalo;
  const auto centre = centre_of(images, at, Tile::kHigh, Tile::kWide);
  each_window<Tile>(images, window, at, centre, kRows, Tile::kColumns, first, second,
                    [&](int row, int column, const A(&moments)[kQuantities]) {
                      const int64_t y = at.y + row, x = at.x + column;
                      A maps[kQuantities] = {};
                      if (y >= 0 && y < high && x >= 0 && x < wide)
                        Similarity<A>(moments, centre, stabilisers)
                            .spread(*grads.ssim.at(at.n, at.c, y, x), *grads.contrast.at(at.n, at.c, y, x), {0, 0},
                                       maps);
#pragma unroll
                      for (int q = 0; q < kQuantities; ++q) first[q * kMaps + row * Tile::kSumPitch + column] = maps[q];
                    });
  __syncthreads();
  const int rows = least(kPixelRows, images.h - y0), columns = least(kPixelColumns, images.w - x0);
  sum_rows<kUsual, kAcross, kRows, kSpreadPitch, kQuantities>(
      window, columns, second, [&](int row, int column, A(&value)[kQuantities]) {
#pragma unroll
        for (int q = 0; q < kQuantities; ++q) value[q] = first[q * kMaps + row * Tile::kSumPitch + column];
      });
  __syncthreads();
  sum_columns<kUsual, kDown, kRows, kPixelColumns, kSpreadPitch>(
      window, rows, columns, second, [&](int row, int column, const A(&spread)[kQuantities]) {
        store_gradients(images, at, centre, y0 + row, x0 + column, spread, grad_x, grad_y);
      });
}

template <class T>
__device__ Centre<accumulator_t<T>> centre_of_plane(const Images<T>& images, const Place& at) {
  return centre_of(images, {at.plane, at.n, at.c, 0, 0}, images.h, images.w);
}

/// The windows' maps: (4, planes, rows, columns).
template <class T, class A = accumulator_t<T>>
__global__ void __launch_bounds__(kThreads, kBlocksAnSm<A>)
    ssim_maps_kernel(const Gradients<A> grads, const Images<T> images, const Window<A> window,
                     const Stabilisers<A> stabilisers, A* to, const int64_t planes) {
  using Tile = tile_t<0, A>;
  __shared__ A pixels[2 * Tile::kPixels], sums[kQuantities * Tile::kSums];
  const int size = window.size, rows = Tile::kHigh - size + 1;
  const int high = images.h - size + 1, wide = images.w - size + 1;
  const Place at = locate(images, rows, Tile::kColumns, high, wide);
  const auto centre = centre_of(images, at, Tile::kHigh, Tile::kColumns + size - 1);
  const auto whole = centre_of_plane(images, at);
  each_window<Tile>(images, window, at, centre, least(rows, high - at.y), least(Tile::kColumns, wide - at.x),
                    pixels, sums, [&](int row, int column, const A(&moments)[kQuantities]) {
                      const int64_t y = at.y + row, x = at.x + column;
                      A maps[kQuantities];
                      Similarity<A>(moments, centre, stabilisers)
                          .spread(*grads.ssim.at(at.n, at.c, y, x), *grads.contrast.at(at.n, at.c, y, x),
                                     {centre.x - whole.x, centre.y - whole.y}, maps);
#pragma unroll
                      for (int q = 0; q < kQuantities; ++q)
                        to[((q * planes + at.plane) * high + y) * wide + x] = maps[q];
                    });
}

/// grad_x and grad_y from them.
template <class T, class A = accumulator_t<T>>
__global__ void __launch_bounds__(kThreads, kBlocksAnSm<A>)
    ssim_spread_kernel(const A* from, const int64_t planes, const Images<T> images, const Window<A> window,
                       const Strided<T> grad_x, const Strided<T> grad_y) {
  using Tile = tile_t<0, A>;
  __shared__ A maps[Tile::kPixels], sums[kQuantities * Tile::kSums];
  const int size = window.size, halo = size - 1;
  const int high = images.h - halo, wide = images.w - halo, tile_wide = Tile::kColumns + halo;
  const Place at = locate(images, Tile::kHigh - halo, Tile::kColumns, images.h, images.w);
  const auto centre = centre_of_plane(images, at);
  const int rows = least(Tile::kHigh - halo, images.h - at.y), columns = least(Tile::kColumns, images.w - at.x);
  for (int q = 0; q < kQuantities; ++q) {
    for (int i = static_cast<int>(threadIdx.x); i < Tile::kHigh * tile_wide; i += kThreads) {
      const int row = i / tile_wide, column = i % tile_wide;
      const int64_t y = at.y - halo + row, x = at.x - halo + column;
      const bool inside = y >= 0 && y < high && x >= 0 && x < wide;
      maps[row * Tile::kPitch + column] = inside ? from[((q * planes + at.plane) * high + y) * wide + x] : A(0);
    }
    __syncthreads();
    sum_rows<0, Tile::kAcross, Tile::kHigh, Tile::kSumPitch, 1>(
        window, columns, sums + q * Tile::kSums,
        [&](int row, int column, A(&value)[1]) { value[0] = maps[row * Tile::kPitch + column]; });
    __syncthreads();
  }
  sum_columns<0, Tile::kDown, Tile::kHigh, Tile::kColumns, Tile::kSumPitch>(
      window, rows, columns, sums, [&](int row, int column, const A(&spread)[kQuantities]) {
        store_gradients(images, at, centre, at.y + row, at.x + column, spread, grad_x, grad_y);
      });
}

/// A gradient at every window, or one that all of a plane share.
template <class A>
Strided<A> at_every_window(const Tensor& grad) {
  auto result = strided<A>(grad);
  for (int d = 2; d < 4; ++d)
    if (grad.sizes()[d] == 1) result.stride[d] = 0;
  return result;
}

void ssim_backward(Tensor grad_ssim, Tensor grad_contrast, Tensor x, Tensor y, int64_t size, double sigma, double c1,
                   double c2, Tensor grad_x, Tensor grad_y) {
  check_ssim_backward(grad_ssim, grad_contrast, x, y, size, grad_x, grad_y);
  const int64_t planes = x.sizes()[0] * x.sizes()[1], h = x.sizes()[2], w = x.sizes()[3];
  visit_dtype(x, [&]<class T>() {
    using A = accumulator_t<T>;
    const Gradients<A> grads{at_every_window<A>(grad_ssim), at_every_window<A>(grad_contrast)};
    const auto images = images_of<T>(x, y);
    const auto window = make_window<A>(size, sigma);
    const Stabilisers<A> stabilisers{static_cast<A>(c1), static_cast<A>(c2)};
    if (size == kUsual) {
      using Tile = tile_t<kUsual, A>;
      constexpr int kLost = 2 * (kUsual - 1);
      const int64_t blocks = planes * tiles(h, w, Tile::kHigh - kLost, Tile::kWide - kLost);
      launch(ssim_backward_kernel<T>, blocks, kThreads, x, grads, images, window, stabilisers,
             strided_written<T>(grad_x), strided_written<T>(grad_y));
      return;
    }
    using Tile = tile_t<0, A>;
    const int64_t rows = Tile::kHigh - size + 1, high = h - size + 1, wide = w - size + 1;
    const Scratch<A> maps(x, kQuantities * planes * high * wide);
    launch(ssim_maps_kernel<T>, planes * tiles(high, wide, rows, Tile::kColumns), kThreads, x, grads, images, window,
           stabilisers, maps.data(), planes);
    launch(ssim_spread_kernel<T>, planes * tiles(h, w, rows, Tile::kColumns), kThreads, x,
           static_cast<const A*>(maps.data()), planes, images, window, strided_written<T>(grad_x),
           strided_written<T>(grad_y));
  });
}

}  // namespace

FASTIQA_REGISTER(ssim,
                 "ssim(Tensor x, Tensor y, int size, float sigma, float c1, float c2, bool map, Tensor(a!) out, "
                 "Tensor(b!) contrast) -> ()")
FASTIQA_REGISTER(ssim_backward,
                 "ssim_backward(Tensor grad_ssim, Tensor grad_contrast, Tensor x, Tensor y, int size, float sigma, "
                 "float c1, float c2, Tensor(a!) grad_x, Tensor(b!) grad_y) -> ()")

}  // namespace fastiqa
