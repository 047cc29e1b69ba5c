// gated_upsample on a GPU: features times the interpolated sigmoid of a smaller map, and its adjoint.
//
//   forward    f (N,C,H,W), l (N,1|C,h,w) -> f * up(s), s = sigmoid(l)          reads f and l, writes one map
//   backward   g, f (N,C,H,W), l -> g * up(s), s (1 - s) upT(sum_c g * f)       reads g, f and l, writes one map and dl
//
// A gate of one channel is made first, as a map of N x H x W in the accumulation type, so the kernels that move features
// know no ratio and no mode: gate_kernel, then scale_kernel, or planes_sums or pixels_sums, which also write the sums over
// channels. A gate of C channels is made where it is used, from as many sigmoids as elements where sizes double: a thread
// owns two rows, which share theirs (own_kernel). Either way gather_kernel ends the backward pass. "Planes" are maps whose
// rows lie together (NCHW), "pixels" those whose channels do; a thread moves 16 bytes along either, or one element.
#include "core/scratch.h"
#include "ops/gated_upsample/gates_cuda.h"

namespace fastiqa {
namespace {

// ---- kernels of the backward pass ----

/// g * gate, and the sum over channels of g * f, for 32 packs of pixels: each warp takes every eighth channel.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads)
    planes_sums(const Map<T> in, const Map<T> features, const Map<T> out, const accumulator_t<T>* gates,
                accumulator_t<T>* sums, const Geometry<accumulator_t<T>> sizes, const int64_t tiles) {
  using A = accumulator_t<T>;
  constexpr int kWarps = kThreads / 32;
  __shared__ A part[kWarps][32 * kPack];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t block = blockIdx.x, n = block / tiles, pixel = (block % tiles * 32 + lane) * kPack;
  const bool inside = pixel < sizes.plane();
  const int64_t y = pixel / sizes.columns.out, x = pixel % sizes.columns.out;
  A gate[kPack] = {}, total[kPack] = {};
  if (inside) load(gates + n * sizes.plane() + pixel, gate);
  for (int64_t c = warp; inside && c < sizes.c; c += kWarps) {
    auto pack = Pack<T, kPack>::load(in.at(n, c, y, x));
    const auto f = Pack<T, kPack>::load(features.at(n, c, y, x));
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const A g = widen(pack.element[k]);
      total[k] += g * widen(f.element[k]);
      pack.element[k] = narrow<T>(g * gate[k]);
    }
    pack.store(out.at(n, c, y, x));
  }
#pragma unroll
  for (int k = 0; k < kPack; ++k) part[warp][k * 32 + lane] = total[k];
  __syncthreads();
  if (warp == 0 && inside) {
    for (int w = 1; w < kWarps; ++w)
#pragma unroll
      for (int k = 0; k < kPack; ++k) total[k] += part[w][k * 32 + lane];
    store(total, sums + n * sizes.plane() + pixel);
  }
}

/// g * gate, and the sum over channels of g * f, with `lanes` neighbouring threads a pixel.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads)
    pixels_sums(const Map<T> in, const Map<T> features, const Map<T> out, const accumulator_t<T>* gates,
                accumulator_t<T>* sums, const Geometry<accumulator_t<T>> sizes, const int64_t lanes) {
  using A = accumulator_t<T>;
  const int64_t i = global_thread<int64_t>(), pixel = i / lanes, row = pixel / sizes.columns.out;
  const int64_t x = pixel % sizes.columns.out, y = row % sizes.rows.out, n = row / sizes.rows.out;
  const bool inside = n < sizes.n;  // no thread leaves before the shuffles
  const A gate = inside ? gates[pixel] : A(0);
  A total = 0;
  for (int64_t c = i % lanes * kPack; inside && c < sizes.c; c += lanes * kPack) {
    auto pack = Pack<T, kPack>::load(in.at(n, c, y, x));
    const auto f = Pack<T, kPack>::load(features.at(n, c, y, x));
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const A g = widen(pack.element[k]);
      total += g * widen(f.element[k]);
      pack.element[k] = narrow<T>(g * gate);
    }
    pack.store(out.at(n, c, y, x));
  }
  for (int mask = static_cast<int>(lanes) / 2; mask > 0; mask /= 2) total += __shfl_xor_sync(0xffffffffu, total, mask);
  if (inside && i % lanes == 0) sums[pixel] = total;
}

/// The gradient of a pack of logits: the elements that they reach, from the sums over channels or as products g * f.
template <class T, int kPack, bool kPixels, bool kShared>
__global__ void __launch_bounds__(kThreads, 4)
    gather_kernel(const Map<T> in, const Map<T> features, const accumulator_t<T>* sums, const Map<T> logits,
                  const Map<T> out, const Geometry<accumulator_t<T>> sizes) {
  using A = accumulator_t<T>;
  const Axis<A>&rows = sizes.rows, &columns = sizes.columns;
  const int64_t channels = (kShared ? 1 : sizes.c) / kPack;
  const int64_t i = global_thread<int64_t>(), inner = kPixels ? channels : columns.in, second = i / inner;
  const int64_t middle = kPixels ? columns.in : rows.in, third = second / middle, outer = kPixels ? rows.in : channels;
  const int64_t n = third / outer;
  if (n >= sizes.n) return;
  const int64_t c = kPixels ? i % inner * kPack : third % outer, ix = kPixels ? second % middle : i % inner;
  const int64_t iy = kPixels ? third % outer : second % middle;

  // A tap's weight counts even if it is 0, as in PyTorch: 0 times infinity is NaN. Nearest has one tap.
  const auto weight = [](const Axis<A>& axis, const Taps<A>& tap, int64_t at) {
    return (tap.i0 == at ? tap.w0 : A(0)) + (!axis.nearest && tap.i1 == at ? tap.w1 : A(0));
  };
  A total[kPack] = {};
  const int64_t y1 = rows.end(iy), x1 = columns.end(ix);
#pragma unroll 1  // unrolled, these loops take 80 to 112 registers a thread
  for (int64_t y = rows.first(iy); y < y1; ++y) {
    const Taps<A> row = rows.taps(y);
    if (row.i0 != iy && row.i1 != iy) continue;
#pragma unroll 1
    for (int64_t x = columns.first(ix); x < x1; ++x) {
      const Taps<A> column = columns.taps(x);
      if (column.i0 != ix && column.i1 != ix) continue;
      const A w = weight(rows, row, iy) * weight(columns, column, ix);
      if constexpr (kShared) {
        total[0] += w * sums[(n * rows.out + y) * columns.out + x];
      } else {
        const auto g = Pack<T, kPack>::load(in.at(n, c, y, x)), f = Pack<T, kPack>::load(features.at(n, c, y, x));
#pragma unroll
        for (int k = 0; k < kPack; ++k) total[k] += w * (widen(g.element[k]) * widen(f.element[k]));
      }
    }
  }
  auto pack = Pack<T, kPack>::load(logits.at(n, c, iy, ix));
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    const A s = sigmoid(widen(pack.element[k]));
    pack.element[k] = narrow<T>(total[k] * (A(1) - s) * s);
  }
  pack.store(out.at(n, c, iy, ix));
}

// ---- launchers ----

template <class T>
struct Call {
  using A = accumulator_t<T>;
  Map<T> in, out, logits;
  Geometry<A> sizes;
  bool pixels;
  Tensor on;

  Call(const Tensor& in, const Tensor& out, const Tensor& logits, const std::string& mode)
      : in(view(in)), out(written(out)), logits(view(logits)),
        sizes{in.sizes()[0], in.sizes()[1], {logits.sizes()[2], in.sizes()[2], mode == "nearest"},
              {logits.sizes()[3], in.sizes()[3], mode == "nearest"}},
        pixels(out.strides()[1] == 1 && in.sizes()[1] > 1), on(in) {}

  int64_t count() const { return sizes.n * sizes.c * sizes.plane(); }

  /// The gate of one channel, as a map of its own.
  Scratch<A> gates() const {
    const int64_t pixels = sizes.n * sizes.plane();
    Scratch<A> result(on, pixels);
    launch(gate_kernel<T>, blocks(pixels), kThreads, on, logits, sizes, result.data());
    return result;
  }

  /// out = in * gate, with a gate of each channel's own.
  void own() const {
    const auto go = [&]<int kPack, bool kPixels, bool kDoubles>() {
      const int64_t rows = kDoubles ? sizes.rows.in + 1 : sizes.rows.out;
      const int64_t threads = sizes.n * sizes.c * rows * sizes.columns.out / kPack;
      launch(own_kernel<T, kPack, kPixels, kDoubles>, blocks(threads), kThreads, on, in, out, logits, sizes);
    };
    const int inner = pixels ? 1 : 3;
    const int64_t length = pixels ? sizes.c : sizes.columns.out;
    const bool doubles = sizes.rows.doubles() && sizes.columns.doubles();
    const bool fits = packable(in, inner, length) && packable(out, inner, length) &&
                      (!pixels || packable(logits, inner, length));
    visit_pack<T>(fits, [&]<int kPack>() {
      if (pixels)
        doubles ? go.template operator()<kPack, true, true>() : go.template operator()<kPack, true, false>();
      else
        doubles ? go.template operator()<kPack, false, true>() : go.template operator()<kPack, false, false>();
    });
  }
};

void gated_upsample(Tensor features, Tensor logits, std::string mode, Tensor out) {
  check_gated_upsample(features, logits, mode, out);
  visit_dtype(features, [&]<class T>() {
    using A = accumulator_t<T>;
    const Call<T> call(features, out, logits, mode);
    if (logits.sizes()[1] != 1) return call.own();
    const Scratch<A> made = call.gates();
    const A* gates = made.data();
    const auto& s = call.sizes;
    const bool fits = call.pixels ? packable(call.in, 1, s.c) && packable(call.out, 1, s.c)
                                  : dense(call.in, s.columns.out, s.plane()) && dense(call.out, s.columns.out, s.plane());
    visit_pack<T>(fits, [&]<int kPack>() {
      if (call.pixels)
        launch(scale_pixels<T, kPack>, blocks(call.count() / kPack), kThreads, call.on, call.in, call.out, gates, s);
      else
        launch(scale_planes<T, kPack>, blocks(s.n * s.groups() * s.plane() / kPack), kThreads, call.on, call.in,
               call.out, gates, s);
    });
  });
}

void gated_upsample_backward(Tensor grad, Tensor features, Tensor logits, std::string mode, Tensor to_features,
                             Tensor to_logits) {
  check_gated_upsample_backward(grad, features, logits, mode, to_features, to_logits);
  visit_dtype(grad, [&]<class T>() {
    using A = accumulator_t<T>;
    const Call<T> call(grad, to_features, logits, mode);
    const Map<T> f(view(features)), target(written(to_logits));
    const auto& s = call.sizes;
    const int64_t low = s.n * logits.sizes()[1] * s.rows.in * s.columns.in;
    if (logits.sizes()[1] != 1) {
      call.own();
      const bool fits = packable(call.in, 1, s.c) && packable(f, 1, s.c) && packable(call.logits, 1, s.c) &&
                        packable(target, 1, s.c);
      visit_pack<T>(call.pixels && fits, [&]<int kPack>() {
        const auto kernel = call.pixels ? gather_kernel<T, kPack, true, false> : gather_kernel<T, 1, false, false>;
        launch(kernel, blocks(low / kPack), kThreads, call.on, call.in, f, static_cast<const A*>(nullptr), call.logits,
               target, s);
      });
      return;
    }
    const Scratch<A> made = call.gates(), kept(call.on, s.n * s.plane());
    const A* gates = made.data();
    A* sums = kept.data();
    const auto fits = [&](const Map<T>& map) {
      return call.pixels ? packable(map, 1, s.c) : dense(map, s.columns.out, s.plane());
    };
    visit_pack<T>(fits(call.in) && fits(f) && fits(call.out), [&]<int kPack>() {
      if (call.pixels) {
        int64_t lanes = 1;  // threads of a pixel, each with four packs of channels or more
        while (lanes < 32 && 4 * lanes * kPack < s.c) lanes *= 2;
        launch(pixels_sums<T, kPack>, blocks(s.n * s.plane() * lanes), kThreads, call.on, call.in, f, call.out, gates,
               sums, s, lanes);
      } else {
        const int64_t tiles = (s.plane() / kPack + 31) / 32;
        launch(planes_sums<T, kPack>, s.n * tiles, kThreads, call.on, call.in, f, call.out, gates, sums, s, tiles);
      }
    });
    launch(gather_kernel<T, 1, false, true>, blocks(low), kThreads, call.on, call.in, f, static_cast<const A*>(sums),
           call.logits, target, s);
  });
}

}  // namespace

FASTIQA_REGISTER(gated_upsample, "gated_upsample(Tensor features, Tensor logits, str mode, Tensor(a!) out) -> ()")
FASTIQA_REGISTER(gated_upsample_backward,
                 "gated_upsample_backward(Tensor grad, Tensor features, Tensor logits, str mode, "
                 "Tensor(a!) to_features, Tensor(b!) to_logits) -> ()")

}  // namespace fastiqa
