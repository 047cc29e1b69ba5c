// Where an interpolated map's elements come from, along one axis: PyTorch's own source index formulas, for any two sizes,
// with align_corners=False and no scale factor.
#pragma once

#include <algorithm>

#include "core/dtype.h"

namespace fastiqa {

/// An output element is w0 * input[i0] + w1 * input[i1].
template <class A>
struct Taps {
  int64_t i0, i1;
  A w0, w1;
};

template <class A>
struct Axis {
  int64_t in, out;
  bool nearest;
  A scale;

  Axis(int64_t in, int64_t out, bool nearest)
      : in(in), out(out), nearest(nearest), scale(static_cast<A>(in) / static_cast<A>(out)) {}

  FASTIQA_HD bool doubles() const { return out == 2 * in; }

  FASTIQA_HD Taps<A> taps(int64_t at) const {
    if (nearest) {
      // PyTorch rounds the product to float32 before it takes the floor, for float64 tensors too.
      const int64_t floor = static_cast<int64_t>(static_cast<float>(scale * static_cast<A>(at)));
      const int64_t i = floor < in ? floor : in - 1;
      return {i, i, A(1), A(0)};
    }
    if (in == out) return {at, at, A(1), A(0)};
    const A centre = scale * (static_cast<A>(at) + A(0.5)) - A(0.5);
    const A source = centre > 0 ? centre : A(0);
    const int64_t floor = static_cast<int64_t>(source);
    const int64_t i = floor < in ? floor : in - 1;
    const A over = source - static_cast<A>(i), w1 = over < 1 ? over : A(1);
    return {i, i + 1 < in ? i + 1 : i, A(1) - w1, w1};
  }

  /// The first output element to which input i, or one after it, contributes.
  FASTIQA_HD int64_t first(int64_t i) const {
    if (i <= 1) return 0;  // the elements before the first centre name inputs 0 and 1, with weights 1 and 0
    int64_t at = static_cast<int64_t>((static_cast<A>(i) - A(0.5)) / scale - A(0.5)) - 2;
    at = at > 0 ? at : 0;
    while (taps(at).i1 < i) ++at;
    return at;
  }

  /// One past the last output element to which input i, or one before it, contributes.
  FASTIQA_HD int64_t end(int64_t i) const {
    if (i >= in - 1) return out;
    int64_t at = static_cast<int64_t>((static_cast<A>(i) + A(1.5)) / scale) + 3;
    at = at < out ? at : out;
    while (at > 0 && taps(at - 1).i0 > i) --at;
    return at;
  }
};

}  // namespace fastiqa
