// Depthwise convolutions on the CPU, row by row.
//
// Outputs along x that lie a dilation apart share inputs: T of them in registers need T + K - 1 loads and K weights for
// T x K multiplications, so that two multiply-adds a cycle, and not the loads, are the limit.
//
// Maps are worked on in blocks of as many channels as a vector of 64 bytes holds, one vector a pixel, so that every
// memory format, 16-bit type and odd width runs the same arithmetic: `gather_row` brings a row of a block's channels into
// that form (NCHW through 16x16 transposes, some 10 % of the time), `scatter_row` takes it back. A weight is a vector too,
// one value a channel; sums for weight gradients need no reduction across lanes.
#pragma once

#include "core/simd.h"
#include "core/tensor.h"

namespace fastiqa {

// ---- rows of maps as vectors of channels ----

/// A row of a block of channels in a map.
template <class T>
struct Row {
  T* data;
  int64_t channel, column;  // strides
  int channels;             // at most a vector's lanes; lanes without a channel hold zeros
  int64_t count;            // columns
  int64_t next;             // to the row that will be moved after this one, which is fetched into the cache meanwhile
  const T* end;             // of the tensor: reads beyond the row stop here
};

// Pixels a power of two apart share few sets of the first-level cache, where the next row's would drive each other out:
// large_kernel_conv of 2x256x112x112 float32, channels-last, on one thread 8.0 instead of 9.4 ms.
constexpr int kSecondLevel = 2;

template <class T>
FASTIQA_CLONES void gather_row(const Row<T>& row, Vec<accumulator_t<T>>* to) {
  using A = accumulator_t<T>;
  constexpr int n = kLanes<A>;
  if (row.channel == 1 && row.channels == n) {
    for (int64_t x = 0; x < row.count; ++x) {
      __builtin_prefetch(row.data + x * row.column + row.next, 0, kSecondLevel);
      widen_vector(row.data + x * row.column, to[x]);
    }
  } else if (row.column == 1) {
    for (int64_t x = 0; x < row.count; x += n) {
      const int columns = static_cast<int>(std::min<int64_t>(n, row.count - x));
      const T* from = row.data + x;
      Vec<A> v[n];
      if (row.channels == n && row.end - from >= (n - 1) * row.channel + n) {
        unrolled<n>([&](auto l) __attribute__((always_inline)) {
          __builtin_prefetch(from + l * row.channel + row.next);
          widen_vector(from + l * row.channel, v[l]);
        });
      } else {
        for (int l = 0; l < n; ++l) {
          T some[n] = {};
          if (l < row.channels) copy_some(some, from + l * row.channel, columns);
          widen_vector(some, v[l]);
        }
      }
      transpose<n / 2, A>(v);
      unrolled<n>([&](auto k) __attribute__((always_inline)) {
        if (k < columns) to[x + k] = v[k];
      });
    }
  } else {
    for (int64_t x = 0; x < row.count; ++x) {
      A lanes[n] = {};
      for (int l = 0; l < row.channels; ++l) lanes[l] = widen(row.data[x * row.column + l * row.channel]);
      std::memcpy(&to[x], lanes, sizeof lanes);
    }
  }
}

template <class T>
FASTIQA_CLONES void scatter_row(const Vec<accumulator_t<T>>* from, const Row<T>& row) {
  using A = accumulator_t<T>;
  constexpr int n = kLanes<A>;
  if (row.channel == 1 && row.channels == n) {
    for (int64_t x = 0; x < row.count; ++x) {
      __builtin_prefetch(row.data + x * row.column + row.next, 0, kSecondLevel);
      narrow_vector(from[x], row.data + x * row.column);
    }
  } else if (row.column == 1) {
    for (int64_t x = 0; x < row.count; x += n) {
      const int columns = static_cast<int>(std::min<int64_t>(n, row.count - x));
      Vec<A> v[n];  // of a row with room for n vectors more: those after its end are of no account
      unrolled<n>([&](auto k) __attribute__((always_inline)) { v[k] = from[x + k]; });
      transpose<n / 2, A>(v);
      unrolled<n>([&](auto l) __attribute__((always_inline)) {
        if (l >= row.channels) return;
        T* to = row.data + l * row.channel + x;
        __builtin_prefetch(to + row.next, 1);
        T some[n];
        narrow_vector(v[l], some);
        copy_some(to, some, columns);
      });
    }
  } else {
    for (int64_t x = 0; x < row.count; ++x) {
      A lanes[n];
      std::memcpy(lanes, &from[x], sizeof lanes);
      for (int l = 0; l < row.channels; ++l) row.data[x * row.column + l * row.channel] = narrow<T>(lanes[l]);
    }
  }
}

// ---- arithmetic ----

constexpr int kMostTaps = 7;

/// The rows of a kernel that meet rows of the map: for each the first input of column 0, and its K weights or sums.
template <class A>
struct KernelTaps {
  int rows;
  const Vec<A>* input[kMostTaps];
  Vec<A>* weight[kMostTaps];
};

/// A row of a convolution: kernels of K columns, D apart. A tile of outputs in registers is D * T neighbours.
template <class A, int K, int D, int T>
FASTIQA_CLONES void convolve_row(const KernelTaps<A>& taps, const Vec<A>& bias, int64_t width, Vec<A>* out) {
  for (int64_t x = 0; x < width; x += D * T) {
    Vec<A> sum[D * T];
    unrolled<D * T>([&](auto j) __attribute__((always_inline)) { sum[j] = bias; });
    for (int row = 0; row < taps.rows; ++row) {
      const Vec<A>* in = taps.input[row] + x;
      Vec<A> weight[K];
      unrolled<K>([&](auto k) __attribute__((always_inline)) { weight[k] = taps.weight[row][k]; });
      unrolled<D*(T + K - 1)>([&](auto m) __attribute__((always_inline)) {
        const Vec<A> value = in[m];
        unrolled<K>([&](auto k) __attribute__((always_inline)) {
          if constexpr (m >= D * k && m - D * k < D * T) sum[m - D * k] += weight[k] * value;
        });
      });
    }
    unrolled<D * T>([&](auto j) __attribute__((always_inline)) {
      if (x + j < width) out[x + j] = sum[j];
    });
  }
}

/// Adds to a kernel's gradient what a row of the output's gradient, zero beyond `width`, contributes.
template <class A, int K, int D, int T>
FASTIQA_CLONES void correlate_row(const KernelTaps<A>& taps, const Vec<A>* grad, int64_t width) {
  for (int row = 0; row < taps.rows; ++row) {
    Vec<A> sum[K], other[K] = {};  // two of each, because an addition waits for the one before
    unrolled<K>([&](auto k) __attribute__((always_inline)) { sum[k] = taps.weight[row][k]; });
    for (int64_t x = 0; x < width; x += D * T) {
      const Vec<A>* in = taps.input[row] + x;
      Vec<A> g[D * T];
      unrolled<D * T>([&](auto j) __attribute__((always_inline)) { g[j] = grad[x + j]; });
      unrolled<D*(T + K - 1)>([&](auto m) __attribute__((always_inline)) {
        const Vec<A> value = in[m];
        unrolled<K>([&](auto k) __attribute__((always_inline)) {
          if constexpr (m >= D * k && m - D * k < D * T) (m % 2 == 0 ? sum : other)[k] += g[m - D * k] * value;
        });
      });
    }
    unrolled<K>([&](auto k) __attribute__((always_inline)) { taps.weight[row][k] = sum[k] + other[k]; });
  }
}

/// Adds a row to a sum: by itself first and in four parts, as each addition to a long sum is rounded like all of it.
template <class A>
FASTIQA_CLONES void add_row(const Vec<A>* row, int64_t width, Vec<A>& sum) {
  Vec<A> part[4] = {};
  int64_t x = 0;
  for (; x + 4 <= width; x += 4)
    unrolled<4>([&](auto j) __attribute__((always_inline)) { part[j] += row[x + j]; });
  for (; x < width; ++x) part[0] += row[x];
  sum += (part[0] + part[1]) + (part[2] + part[3]);
}

// ---- tiles of outputs ----

/// Sizes T of tiles that are compiled. float64, which is for checks, has one: each costs seconds to compile.
template <class A, int D>
constexpr auto kTiles = D == 1 ? std::array{4, 7, 10, 14} : std::array{2, 3, 4, 5};
template <int D>
constexpr std::array<int, 1> kTiles<double, D> = {D == 1 ? 7 : 3};

/// T of the tile that takes the least time for a row: one costs its outputs and, for weights and sums, some four more.
template <class A, int D>
int tile_for(int64_t width) {
  const auto cost = [&](int t) { return (width + D * t - 1) / (D * t) * (D * t + 4); };
  int best = kTiles<A, D>.back();
  for (const int t : kTiles<A, D>)
    if (cost(t) < cost(best)) best = t;
  return best;
}

template <class A, int D, class F>
void visit_tile(int t, F f) {
  unrolled<static_cast<int>(kTiles<A, D>.size())>([&](auto k) {
    if (kTiles<A, D>[k] == t) f.template operator()<kTiles<A, D>[k]>();
  });
}

/// The rows of a map that are needed at a time, each between `pad` zeros and as many as its reader reads.
template <class A>
class Ring {
 public:
  Ring(int64_t pad, int64_t pitch, int64_t depth) : pad_(pad), pitch_(pitch), depth_(depth), data_(pitch * depth) {}

  Vec<A>* row(int64_t y) const { return data_.data() + y % depth_ * pitch_ + pad_; }

 private:
  int64_t pad_, pitch_, depth_;
  Vectors<A> data_;
};

/// A block of channels' kernel, K x K and D apart, or the sums of its gradient.
template <class A, int K, int D>
struct Kernel {
  static constexpr int kHalf = D * (K / 2);

  Vec<A> weight[K * K] = {};
  Vec<A> bias = {};
  int64_t height, width;
  int tile;

  Kernel(int64_t height, int64_t width) : height(height), width(width), tile(tile_for<A, D>(width)) {}

  /// Rows that this kernel reads: it needs 2 kHalf + 1 at a time, and what its last tile reads beyond a row exists.
  Ring<A> ring(int64_t depth = 2 * kHalf + 1) const { return {kHalf, width + D * (tile + K), depth}; }

  /// Row y of the convolution.
  void convolve(const Ring<A>& in, int64_t y, Vec<A>* out) {
    const KernelTaps<A> taps = meet(in, y);
    visit_tile<A, D>(tile, [&]<int T>() { convolve_row<A, K, D, T>(taps, bias, width, out); });
  }

  /// Adds to the sums what row y of the convolution's gradient contributes.
  void correlate(const Ring<A>& in, const Ring<A>& grad, int64_t y) {
    const KernelTaps<A> taps = meet(in, y);
    visit_tile<A, D>(tile, [&]<int T>() { correlate_row<A, K, D, T>(taps, grad.row(y), width); });
    add_row<A>(grad.row(y), width, bias);
  }

 private:
  KernelTaps<A> meet(const Ring<A>& in, int64_t y) {
    KernelTaps<A> taps;
    taps.rows = 0;
    for (int k = 0; k < K; ++k) {
      const int64_t row = y + D * (k - K / 2);
      if (row < 0 || row >= height) continue;
      taps.input[taps.rows] = in.row(row) - kHalf;
      taps.weight[taps.rows++] = weight + k * K;
    }
    return taps;
  }
};

enum class Turn { none, half };  // turned by half, a kernel is that of the adjoint

// ---- walk ----

constexpr int64_t kLeastBand = 28;  // rows; a band computes up to 18 rows of the map between over again

/// A band of rows of a block of channels.
struct DepthwiseTask {
  int64_t n, first, begin, end;
  int channels;
};

/// Tasks in the order of blocks of channels, samples, bands.
struct DepthwisePlan {
  int64_t samples, channels, height, width, lanes, blocks, bands, tasks;

  DepthwisePlan(const View& x, int64_t lanes, int64_t least_tasks)
      : samples(x.sizes[0]), channels(x.sizes[1]), height(x.sizes[2]), width(x.sizes[3]), lanes(lanes),
        blocks((channels + lanes - 1) / lanes) {
    const int64_t planes = samples * blocks;
    bands = std::clamp<int64_t>((least_tasks + planes - 1) / planes, 1, std::max<int64_t>(1, height / kLeastBand));
    tasks = planes * bands;
  }

  DepthwiseTask task(int64_t k) const {
    const int64_t band = k % bands, first = k / bands / samples * lanes;
    return {k / bands % samples, first, band * height / bands, (band + 1) * height / bands,
            static_cast<int>(std::min(lanes, channels - first))};
  }
};

template <class T>
const T* end_of(const View& v) {
  const T* last = static_cast<const T*>(v.data);
  for (int d = 0; d < kMaxRank; ++d) last += (v.sizes[d] - 1) * v.strides[d];
  return last + 1;
}

template <class T>
Row<T> row_of(const View& v, const DepthwiseTask& task, int64_t y) {
  const auto& stride = v.strides;
  auto* data = static_cast<T*>(v.data) + task.n * stride[0] + task.first * stride[1] + y * stride[2];
  return {data, stride[1], stride[3], task.channels, v.sizes[3], y + 1 < v.sizes[2] ? stride[2] : 0, end_of<T>(v)};
}

/// f(row, first tap) for the task's channels of a weight (C, 1, K, K): all taps as one row, or row by row.
template <class T, int K, class F>
void visit_weight(const View& w, const DepthwiseTask& task, F f) {
  const auto& stride = w.strides;
  auto* data = static_cast<T*>(w.data) + task.first * stride[0];
  const bool one_run = stride[2] == K * stride[3];
  for (int k = 0; k < (one_run ? 1 : K); ++k)
    f(Row<T>{data + k * stride[2], stride[0], stride[3], task.channels, one_run ? K * K : K, 0, end_of<T>(w)}, k * K);
}

template <class T, class A, int K, int D>
void load_weight(Kernel<A, K, D>& kernel, const View& w, const DepthwiseTask& task, Turn turn) {
  visit_weight<T, K>(w, task, [&](const Row<T>& row, int tap) { gather_row(row, kernel.weight + tap); });
  if (turn == Turn::half) std::reverse(kernel.weight, kernel.weight + K * K);
}

/// A bias (C).
struct Bias {
  void* data;
  int64_t stride;
};

/// An input.
inline Bias bias_of(const Tensor& b) { return {data_to_read<void>(b), b.strides()[0]}; }

/// An output.
inline Bias bias_written(const Tensor& b) { return {data_of<void>(b), b.strides()[0]}; }

/// The task's channels of a bias.
template <class T>
Row<T> row_of(const Bias& b, const DepthwiseTask& task) {
  return {static_cast<T*>(b.data) + task.first * b.stride, b.stride, 0, task.channels, 1, 0, nullptr};
}

/// Rows [from, to] of a map of `height` rows, those not yet made: make(y) for each.
template <class Make>
void advance(int64_t& next, int64_t to, int64_t height, Make make) {
  for (; next <= std::min(height - 1, to); ++next) make(next);
}

}  // namespace fastiqa
