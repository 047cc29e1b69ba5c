// What the arguments of gated_upsample and its adjoint must be, on either device.
#pragma once

#include <string>

#include "core/arguments.h"

namespace fastiqa {

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

}  // namespace fastiqa
