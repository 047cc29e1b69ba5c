// The arguments of gated_upsample and its adjoint, and where an interpolated map's elements come from along one axis, for
// both devices. The indices are PyTorch's own formulas, for any two sizes, with align_corners=False and no scale factor.
#pragma once

#include <algorithm>
#include <string>

#include "core/arguments.h"

namespace fastiqa {

// ---- arguments ----

/// Both modes take maps of any two sizes, a gate one channel or as many as the features.
inline void check_gates(const Arguments& call, const std::array<int64_t, 4>& features, const Tensor& logits,
                        const std::string& mode) {
  const auto [n, c, h, w] = features;
  const auto gates = call.sizes<4>("logits", logits);
  call.want(gates[0] == n, "logits", "got ", gates[0], " samples, want ", n);
  call.want(gates[1] == 1 || gates[1] == c, "logits", "got ", gates[1], " channels, want 1 or ", c);
  call.want(mode == "nearest" || mode == "bilinear", "mode", "got ", mode, ", want nearest or bilinear");
}

inline void check_gated_upsample(const Tensor& features, const Tensor& logits, const std::string& mode,
                                 const Tensor& out) {
  const Arguments call("gated_upsample", "features", features);
  const auto [n, c, h, w] = call.sizes<4>("features", features);
  check_gates(call, {n, c, h, w}, logits, mode);
  call.check({n, c, h, w}, "out", out);
}

inline void check_gated_upsample_backward(const Tensor& grad, const Tensor& features, const Tensor& logits,
                                          const std::string& mode, const Tensor& to_features, const Tensor& to_logits) {
  const Arguments call("gated_upsample_backward", "grad", grad);
  const auto [n, c, h, w] = call.sizes<4>("grad", grad);
  check_gates(call, {n, c, h, w}, logits, mode);
  call.check({n, c, h, w}, "features", features, "to_features", to_features);
  const auto& size = logits.sizes();
  call.check({n, size[1], size[2], size[3]}, "to_logits", to_logits);
}

// ---- interpolation ----

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
