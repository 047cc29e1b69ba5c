// Rows of interpolated gates, on the CPU: two rows of sigmoids of the logits, mixed and spread to the width of the map
// that they weigh. "Planes" are maps whose rows lie together (NCHW), "pixels" those whose channels do: there a gate row is
// that of a block of channels ("lanes") at once.
#pragma once

#include <vector>

#include "core/sigmoid.h"
#include "core/simd.h"
#include "core/stream.h"
#include "ops/gated_upsample/api.h"

namespace fastiqa {

template <class T>
struct GateCall {
  using A = accumulator_t<T>;
  View in, features, out, logits;  // in: the features, or the gradient; features: the backward pass alone
  Axis<A> rows, columns;
  std::vector<Taps<A>> taps;  // of the columns
  bool shared, pixels;        // one gate for all channels; channels lie together
  bool streamed;              // out is larger than the caches

  GateCall(const View& in, const View& features, const View& out, const View& logits, bool nearest)
      : in(in), features(features), out(out), logits(logits), rows(logits.sizes[2], in.sizes[2], nearest),
        columns(logits.sizes[3], in.sizes[3], nearest), shared(logits.sizes[1] == 1),
        pixels(out.strides[1] == 1 && in.sizes[1] > 1),
        streamed(streams(in.sizes[0] * in.sizes[1] * rows.out * columns.out * int64_t{sizeof(T)},
                         (pixels ? in.sizes[1] : columns.out) * int64_t{sizeof(T)})) {
    for (int64_t x = 0; x < columns.out; ++x) taps.push_back(columns.taps(x));
  }
};

/// A call cut into tasks: blocks of channels and rows of each sample.
struct Blocks {
  int64_t samples, channels, step, rows, height;

  int64_t across() const { return (channels + step - 1) / step; }
  int64_t down() const { return (rows + height - 1) / height; }
  int64_t count() const { return samples * across() * down(); }
};

struct GateBlock {
  int64_t n, channel, lanes, begin, end;

  GateBlock(const Blocks& blocks, int64_t task) {
    begin = task % blocks.down() * blocks.height;
    end = std::min(blocks.rows, begin + blocks.height);
    channel = task / blocks.down() % blocks.across() * blocks.step;
    lanes = std::min(blocks.step, blocks.channels - channel);
    n = task / blocks.down() / blocks.across();
  }
};

template <class T>
FASTIQA_HD T* at(const View& view, int64_t n, int64_t c, int64_t y) {
  return static_cast<T*>(view.data) + n * view.strides[0] + c * view.strides[1] + y * view.strides[2];
}

/// A row along the columns: `to` has columns.out x lanes elements, `from` columns.in x lanes.
template <class T, class A>
FASTIQA_HD void up(const GateCall<T>& call, const A* from, A* to, int64_t lanes) {
  const int64_t width = call.columns.in;
  const Taps<A>* taps = call.taps.data();
  const auto one = [&](int64_t x) { to[x] = taps[x].w0 * from[taps[x].i0] + taps[x].w1 * from[taps[x].i1]; };
  if (lanes == 1 && call.columns.doubles() && call.columns.nearest) {
    for (int64_t j = 0; j < width; ++j) to[2 * j] = to[2 * j + 1] = from[j];
  } else if (lanes == 1 && call.columns.doubles()) {
    one(0);
#pragma GCC ivdep
    for (int64_t j = 0; j < width - 1; ++j) {
      to[2 * j + 1] = A(0.75) * from[j] + A(0.25) * from[j + 1];
      to[2 * j + 2] = A(0.25) * from[j] + A(0.75) * from[j + 1];
    }
    one(2 * width - 1);
  } else if (lanes == 1) {
    for (int64_t x = 0; x < call.columns.out; ++x) one(x);
  } else {
    for (int64_t x = 0; x < call.columns.out; ++x) {
      const Taps<A> tap = taps[x];
      const A *a = from + tap.i0 * lanes, *b = from + tap.i1 * lanes;
#pragma GCC ivdep
      for (int64_t v = 0; v < lanes; ++v) to[x * lanes + v] = tap.w0 * a[v] + tap.w1 * b[v];
    }
  }
}

/// The transpose of `up`.
template <class T, class A>
FASTIQA_HD void down(const GateCall<T>& call, const A* from, A* to, int64_t lanes) {
  const int64_t width = call.columns.in;
  const Taps<A>* taps = call.taps.data();
  if (lanes == 1 && call.columns.doubles() && call.columns.nearest) {
    for (int64_t j = 0; j < width; ++j) to[j] = from[2 * j] + from[2 * j + 1];
  } else if (lanes == 1 && call.columns.doubles()) {
    const auto edge = [&](int64_t j) {
      to[j] = 0;
      for (int64_t x = std::max<int64_t>(0, 2 * j - 2); x < std::min(2 * width, 2 * j + 3); ++x) {
        if (taps[x].i0 == j) to[j] += taps[x].w0 * from[x];
        if (taps[x].i1 == j) to[j] += taps[x].w1 * from[x];
      }
    };
#pragma GCC ivdep
    for (int64_t j = 2; j < width - 1; ++j)
      to[j] = A(0.25) * (from[2 * j - 1] + from[2 * j + 2]) + A(0.75) * (from[2 * j] + from[2 * j + 1]);
    for (const int64_t j : {int64_t{0}, std::min<int64_t>(1, width - 1), width - 1}) edge(j);
  } else {
    std::fill_n(to, width * lanes, A(0));
    for (int64_t x = 0; x < call.columns.out; ++x) {
      const Taps<A> tap = taps[x];
      A *a = to + tap.i0 * lanes, *b = to + tap.i1 * lanes;
      const A* p = from + x * lanes;
      for (int64_t v = 0; v < lanes; ++v) a[v] += tap.w0 * p[v];
      if (call.columns.nearest) continue;
      for (int64_t v = 0; v < lanes; ++v) b[v] += tap.w1 * p[v];
    }
  }
}

/// The gate rows of one sample and block of channels; holds the sigmoids of two rows of logits.
template <class T>
class Gates {
  using A = accumulator_t<T>;

 public:
  static int64_t memory(const GateCall<T>& call, int64_t lanes) { return 3 * call.columns.in * lanes; }

  FASTIQA_HD Gates(const GateCall<T>& call, int64_t n, int64_t channel, int64_t lanes, A* memory)
      : call_(call), logits_(at<T>(call.logits, n, channel, 0)), lanes_(lanes), memory_(memory) {}

  FASTIQA_HD int64_t length() const { return call_.columns.in * lanes_; }

  /// The sigmoids of row i of the logits.
  FASTIQA_HD const A* sigmoids(int64_t i) {
    A* row = memory_ + (i & 1) * length();
    if (held_[i & 1] == i) return row;
    held_[i & 1] = i;
    const T* logits = logits_ + i * call_.logits.strides[2];
    const int64_t step = call_.logits.strides[3], lane = lanes_ == 1 ? 1 : call_.logits.strides[1];
    if (lane == 1 && step == lanes_) {
#pragma GCC ivdep
      for (int64_t k = 0; k < length(); ++k) row[k] = sigmoid(widen(logits[k]));
    } else {
      for (int64_t x = 0; x < call_.columns.in; ++x)
        for (int64_t v = 0; v < lanes_; ++v) row[x * lanes_ + v] = widen(logits[x * step + v * lane]);
#pragma GCC ivdep
      for (int64_t k = 0; k < length(); ++k) row[k] = sigmoid(row[k]);
    }
    return row;
  }

  FASTIQA_HD void row(int64_t y, A* to) {
    const Taps<A> tap = call_.rows.taps(y);
    const A* a = sigmoids(tap.i0);
    if (!call_.rows.nearest) {
      const A* b = sigmoids(tap.i1);
      A* mixed = memory_ + 2 * length();
#pragma GCC ivdep
      for (int64_t k = 0; k < length(); ++k) mixed[k] = tap.w0 * a[k] + tap.w1 * b[k];
      a = mixed;
    }
    up(call_, a, to, lanes_);
  }

 private:
  const GateCall<T>& call_;
  const T* logits_;
  int64_t lanes_;
  A* memory_;
  int64_t held_[2] = {-1, -1};
};

// ---- runs of elements times gates, and the sums of their products with a second map ----

constexpr int kVector = 16;  // partial sums along a run: one sum would be scalar code, 2.3 instead of 0.9 ms

/// `outer` runs of `inner` elements; strides: [0] along a run, [1] between runs. The sums are indexed as the gates.
template <class T>
struct Runs {
  const T *in, *features;
  T* out;
  const accumulator_t<T>* gate;
  accumulator_t<T>* sum;
  int64_t inner, outer;
  int64_t in_stride[2], features_stride[2], out_stride[2], gate_stride[2];
  bool streamed;  // products go past the caches
};

/// Up to kBlock neighbours, fetched ahead, times gates of their own or, kOne, all times one gate and into one sum.
template <bool kSum, bool kOne, class T, class A>
FASTIQA_HD void gated_run(const T* in, const T* features, T* out, const A* gate, A* sum, int64_t length) {
  const A one = *gate;
  A part[kVector] = {};
  const auto some = [&](int64_t begin, int64_t count) __attribute__((always_inline)) {
#pragma GCC ivdep
    for (int64_t v = 0; v < count; ++v) {
      const A x = widen(in[begin + v]);
      out[begin + v] = narrow<T>(x * (kOne ? one : gate[begin + v]));
      if constexpr (kSum) (kOne ? part[v] : sum[begin + v]) += x * widen(features[begin + v]);
    }
  };
  constexpr int64_t kStep = kSum && kOne ? kVector : kFetched;
  int64_t i = 0;
  for (; i + kFetched <= length; i += kFetched) {
    fetch_ahead(in + i);
    fetch_ahead(out + i);
    if (kSum) fetch_ahead(features + i);
    for (int64_t v = 0; v < kFetched; v += kStep) some(i + v, kStep);
  }
  for (; i < length; i += kVector) some(i, std::min<int64_t>(kVector, length - i));
  for (int half = kVector / 2; kSum && kOne && half > 0; half /= 2)
    for (int v = 0; v < half; ++v) part[v] += part[v + half];
  if constexpr (kSum && kOne) *sum += part[0];
}

/// Calls f(in, features, out, gate, sum) with where each run begins.
template <bool kSum, class T, class F>
FASTIQA_HD void each_run(const Runs<T>& runs, F f) {
  for (int64_t o = 0; o < runs.outer; ++o)
    f(runs.in + o * runs.in_stride[1], kSum ? runs.features + o * runs.features_stride[1] : nullptr,
      runs.out + o * runs.out_stride[1], runs.gate + o * runs.gate_stride[1],
      kSum ? runs.sum + o * runs.gate_stride[1] : nullptr);
}

/// Neighbours from afar. gated_upsample of 8x256x112x112 float32, channels-last: 7.3 instead of 10.4 ms, its adjoint
/// 12.5 instead of 14.6, in planes 14.1 instead of 27.4; but runs of 64 elements in the caches would take longer.
template <bool kSum, class T>
FASTIQA_HD void far_runs(const Runs<T>& runs) {
  using A = accumulator_t<T>;
  alignas(kLine) T staged[kBlock];
  each_run<kSum>(runs, [&](const T* in, const T* features, T* out, const A* gate, A* sum)
                           __attribute__((always_inline)) {
    for (int64_t i = 0; i < runs.inner; i += kBlock) {
      const int64_t length = std::min(kBlock, runs.inner - i);
      T* to = runs.streamed ? staged : out + i;
      if (runs.gate_stride[0] == 1)
        gated_run<kSum, false>(in + i, features + i, to, gate + i, sum + i, length);
      else
        gated_run<kSum, true>(in + i, features + i, to, gate, sum, length);
      if (runs.streamed) stream(out + i, staged, length);
    }
  });
}

template <bool kSum, class T>
FASTIQA_HD void multiply(const Runs<T>& runs) {
  using A = accumulator_t<T>;
  const bool unit = runs.in_stride[0] == 1 && runs.out_stride[0] == 1 && (!kSum || runs.features_stride[0] == 1);
  if (unit && (runs.streamed || runs.inner >= kBlock) && runs.gate_stride[0] <= 1) return far_runs<kSum>(runs);
  each_run<kSum>(runs, [&](const T* in, const T* features, T* out, const A* gate, A* sum)
                           __attribute__((always_inline)) {
    if (unit && runs.gate_stride[0] == 1) {
#pragma GCC ivdep
      for (int64_t i = 0; i < runs.inner; ++i) {
        const A x = widen(in[i]);
        out[i] = narrow<T>(x * gate[i]);
        if constexpr (kSum) sum[i] += x * widen(features[i]);
      }
    } else if (unit && runs.gate_stride[0] == 0) {
      const A factor = *gate;
      A part[kVector] = {};  // one sum would be scalar code
      const auto some = [&](int64_t begin, int64_t count) {
#pragma GCC ivdep
        for (int64_t v = 0; v < count; ++v) {
          const A x = widen(in[begin + v]);
          out[begin + v] = narrow<T>(x * factor);
          if constexpr (kSum) part[v] += x * widen(features[begin + v]);
        }
      };
      int64_t i = 0;
      if constexpr (kSum)
        for (; i + kVector <= runs.inner; i += kVector) some(i, kVector);
      some(i, runs.inner - i);
      for (int half = kVector / 2; kSum && half > 0; half /= 2)
        for (int v = 0; v < half; ++v) part[v] += part[v + half];
      if constexpr (kSum) *sum += part[0];
    } else {
      for (int64_t i = 0; i < runs.inner; ++i) {
        const A x = widen(in[i * runs.in_stride[0]]);
        out[i * runs.out_stride[0]] = narrow<T>(x * gate[i * runs.gate_stride[0]]);
        if constexpr (kSum) sum[i * runs.gate_stride[0]] += x * widen(features[i * runs.features_stride[0]]);
      }
    }
  });
}

/// Whether the rows of a map follow one another without a gap.
FASTIQA_HD bool dense_rows(const View& view) { return view.strides[2] == view.strides[3] * view.sizes[3]; }

}  // namespace fastiqa
