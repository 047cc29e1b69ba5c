// mix_kernels: the kernels of a convolution mixed by the rows of a small matrix, and the gradients.
//
//   forward    mix (R,S,K), weight (K,C,k,k) -> (R,SC,k,k)                  reads the weight
//   backward   grad (R,SC,k,k), mix, weight -> (R,S,K), (K,C,k,k)           reads the weight, writes its gradient
//
// Products of matrices (api.h) of which mix, out and grad have few rows, M = R S:
//
//   out = mix weight,    grad_mix = grad weight^T,    grad_weight = mix^T grad
//
// The weight is read in pieces, of some kernels and some columns, that stay in the first-level cache.
#include "core/matrix.h"
#include "core/stream.h"
#include "ops/mix_kernels/api.h"

namespace fastiqa {
namespace {

// ---- pieces ----

constexpr int64_t kWidth = 1024;   // most columns of a piece
constexpr int64_t kTogether = 32;  // kernels of a task of the backward pass, which share a piece of grad

/// Kernels of a piece: 32 KB where they are widened first. Where not, more of them are more reads at a time (2 rows,
/// 512 kernels of 18432 float32: 0.69 instead of 0.81 ms).
template <class T>
constexpr int64_t kKernels = sizeof(T) < 4 ? 8 : 16;

/// How columns are cut. It depends on their number alone.
struct Cut {
  int64_t columns, width, pieces;

  explicit Cut(const Columns& all)
      : columns(all.count()), width(std::min(kWidth, up(columns))), pieces((columns + width - 1) / width) {}
  static int64_t up(int64_t length) { return (length + 15) / 16 * 16; }  // whole vectors
  int64_t pitch() const { return width * pieces; }
  int64_t begin(int64_t piece) const { return piece * width; }
  int64_t length(int64_t piece) const { return std::min(width, columns - begin(piece)); }
};

/// Calls f(i, run, offset) for each run of columns [n, n + length); i counts from n.
template <class F>
FASTIQA_HD void for_runs(const Columns& columns, int64_t n, int64_t length, F f) {
  for (int64_t i = 0, run; i < length; i += run) {
    run = std::min(length - i, columns.run() - (n + i) % columns.run());
    f(i, run, columns.at(n + i));
  }
}

/// Columns [n, n + length), then zeros up to whole vectors. What lies `ahead` elements further on will be read next:
/// runs are short and far from each other, so the hardware does not foresee it.
template <class T, class A>
FASTIQA_CLONES void load(const T* from, const Columns& columns, int64_t n, int64_t length, int64_t ahead, A* to) {
  constexpr int64_t kBlock = 64, kStep = kLine / sizeof(T);
  for_runs(columns, n, length, [&](int64_t i, int64_t run, int64_t offset) __attribute__((always_inline)) {
    int64_t k = 0;
    for (; columns.side_by_side() && k + kBlock <= run; k += kBlock) {
      if (ahead != 0)
        for (int64_t l = k; l < k + kBlock; l += kStep) __builtin_prefetch(from + offset + l + ahead, 0, 3);
#pragma GCC ivdep
      for (int64_t l = k; l < k + kBlock; ++l) to[i + l] = widen(from[offset + l]);
    }
    for (; k < run; ++k) to[i + k] = widen(from[offset + k * columns.stride[0]]);
  });
  for (int64_t i = length; i < Cut::up(length); ++i) to[i] = 0;
}

template <class T, class A>
FASTIQA_CLONES void store(const A* from, const Columns& columns, int64_t n, int64_t length, bool streamed, T* to) {
  alignas(kLine) T staged[kWidth];
  for_runs(columns, n, length, [&](int64_t i, int64_t run, int64_t offset) __attribute__((always_inline)) {
    if (columns.side_by_side()) {
      T* const neighbours = streamed ? staged : to + offset;
#pragma GCC ivdep
      for (int64_t k = 0; k < run; ++k) neighbours[k] = narrow<T>(from[i + k]);
      if (streamed) stream(to + offset, staged, run);
    } else {
      for (int64_t k = 0; k < run; ++k) to[offset + k * columns.stride[0]] = narrow<T>(from[i + k]);
    }
  });
}

/// Columns [n, n + length) of kernels [j, j + count): where they lie, or else in `buffer`.
template <class T, class A>
Matrix<const A> piece_of(const Rows<const T>& kernels, const Columns& columns, int64_t j, int64_t count, int64_t n,
                         int64_t length, A* buffer) {
  const int64_t stride = kernels.stride[0], width = Cut::up(length);
  const T* first = kernels[j];
  if constexpr (std::is_same_v<T, A>)
    if (columns.run() == columns.count() && columns.side_by_side() && length == width) return {first + n, stride, 1};
  constexpr int64_t kAhead = 4;  // kernels
  for (int64_t i = 0; i < count; ++i)
    load(first + i * stride, columns, n, length, j + i + kAhead < kernels.count ? kAhead * stride : 0, buffer + i * width);
  return {buffer, width, 1};
}

/// (R, S, K) as it is summed: M rows of K factors.
template <class T, class A>
Buffer<A> widened(const Tensor& mix) {
  const auto rows = rows_of<const T>(mix);
  const int64_t kernels = mix.sizes()[2], stride = mix.strides()[2];
  Buffer<A> to(rows.count * kernels);
  for (int64_t m = 0; m < rows.count; ++m)
    for (int64_t j = 0; j < kernels; ++j) to.get()[m * kernels + j] = widen(rows[m][j * stride]);
  return to;
}

// ---- launchers ----

void mix_kernels(Tensor mix, Tensor weight, Tensor out) {
  check_mix_kernels(mix, weight, out);
  visit_dtype(mix, [&]<class T>() {
    using A = accumulator_t<T>;
    const int64_t kernels = weight.sizes()[0], channels = weight.sizes()[1];
    const Columns columns = columns_of(weight, weight), to = columns_of(out, weight);
    const auto given = rows_of<const T>(weight, channels);
    const auto rows = rows_of<T>(out, channels);
    const auto factors = widened<T, A>(mix);
    const Cut cut(columns);
    const int64_t grain = std::max<int64_t>(1, kGrain / (kernels * cut.width));
    parallel_for(0, cut.pieces, grain, [&](int64_t begin, int64_t end) {
      Buffer<A> sums(rows.count * cut.width), buffer(kKernels<T> * cut.width);
      for (int64_t piece = begin; piece < end; ++piece) {
        const int64_t n = cut.begin(piece), length = cut.length(piece), width = cut.up(length);
        for (int64_t j = 0; j < kernels; j += kKernels<T>) {
          const int64_t count = std::min(kKernels<T>, kernels - j);
          const auto w = piece_of(given, columns, j, count, n, length, buffer.get());
          rows_times<A>({sums.get(), width, 1}, j > 0, rows.count, width, {factors.get() + j, kernels, 1}, w, count);
        }
        for (int64_t m = 0; m < rows.count; ++m) store(sums.get() + m * width, to, n, length, false, rows[m]);
      }
    });
  });
}

void mix_kernels_backward(Tensor grad, Tensor mix, Tensor weight, Tensor grad_mix, Tensor grad_weight) {
  check_mix_kernels_backward(grad, mix, weight, grad_mix, grad_weight);
  visit_dtype(mix, [&]<class T>() {
    using A = accumulator_t<T>;
    const int64_t kernels = weight.sizes()[0], channels = weight.sizes()[1];
    const Columns columns = columns_of(weight, weight), from = columns_of(grad, weight);
    const Columns to = columns_of(grad_weight, weight);
    const auto given = rows_of<const T>(weight, channels), rows = rows_of<const T>(grad, channels);
    const auto result = rows_of<T>(grad_weight, channels);
    const auto factors = widened<T, A>(mix);
    const Cut cut(columns);
    Buffer<A> g(rows.count * cut.pitch()), parts(cut.pieces * rows.count * kernels);
    parallel_for(0, rows.count, std::max<int64_t>(1, kGrain / cut.columns), [&](int64_t m, int64_t end) {
      for (; m < end; ++m) load(rows[m], from, 0, cut.columns, 0, g.get() + m * cut.pitch());
    });

    // Together they are beyond the last-level cache before either is (bfloat16: 1.15 instead of 1.46 ms).
    const bool streamed = streams(2 * kernels * cut.columns * int64_t{sizeof(T)}, to.run() * int64_t{sizeof(T)});
    const int64_t tasks = (kernels + kTogether - 1) / kTogether * cut.pieces;
    const int64_t grain = std::max<int64_t>(1, kGrain / (kTogether * cut.width));
    parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) {
      Buffer<A> buffer(kKernels<T> * cut.width);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t piece = task % cut.pieces, first = task / cut.pieces * kTogether;
        const int64_t n = cut.begin(piece), length = cut.length(piece), width = cut.up(length);
        for (int64_t j = first; j < std::min(kernels, first + kTogether); j += kKernels<T>) {
          const int64_t count = std::min(kKernels<T>, kernels - j);
          const auto w = piece_of(given, columns, j, count, n, length, buffer.get());
          rows_by_rows<A>({parts.get() + piece * rows.count * kernels + j, kernels, 1}, false, rows.count, count, width,
                          g.get() + n, cut.pitch(), w.data, w.row);
          rows_times<A>({buffer.get(), width, 1}, false, count, width, {factors.get() + j, 1, kernels},
                        {g.get() + n, cut.pitch(), 1}, rows.count);
          for (int64_t i = 0; i < count; ++i)
            store(buffer.get() + i * width, to, n, length, streamed, result[j + i]);
        }
      }
      if (streamed) end_stream();
    });

    const auto sums = rows_of<T>(grad_mix);
    Buffer<double> line(kernels);  // parts are few, but each is a sum of many
    for (int64_t m = 0; m < rows.count; ++m) {
      std::fill_n(line.get(), kernels, 0.0);
      for (int64_t piece = 0; piece < cut.pieces; ++piece)
        for (int64_t j = 0; j < kernels; ++j) line.get()[j] += parts.get()[(piece * rows.count + m) * kernels + j];
      for (int64_t j = 0; j < kernels; ++j)
        sums[m][j * grad_mix.strides()[2]] = narrow<T>(static_cast<A>(line.get()[j]));
    }
  });
}

}  // namespace

FASTIQA_REGISTER(mix_kernels, "mix_kernels(Tensor mix, Tensor weight, Tensor(a!) out) -> ()")
FASTIQA_REGISTER(mix_kernels_backward,
                 "mix_kernels_backward(Tensor grad, Tensor mix, Tensor weight, Tensor(a!) grad_mix, "
                 "Tensor(b!) grad_weight) -> ()")

}  // namespace fastiqa
