// Rows of interpolated gates, on the CPU: two rows of sigmoids of the logits, mixed and spread to the width of the map
// that they weigh. "Planes" are maps whose rows lie together (NCHW), "pixels" those whose channels do: there a gate row is
// that of a block of channels ("lanes") at once.
#pragma once

#include <vector>

#include "passes/elementwise/cpu.h"
#include "ops/gated_upsample/interpolate.h"
#include "core/sigmoid.h"

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

}  // namespace fastiqa
