// What the arguments of mix_kernels and its adjoint must be, on either device.
#pragma once

#include "core/arguments.h"

namespace fastiqa {

/// mix (R, S, K), weight (K, C, k, k) and what is, or is like, their product (R, SC, k, k).
inline void check_mix(const Arguments& call, const Tensor& mix, const Tensor& weight, const char* name,
                      const Tensor& product) {
  const auto [r, s, kernels] = call.sizes<3>("mix", mix);
  const auto [k, c, rows, columns] = call.sizes<4>("weight", weight);
  call.want(k == kernels, "weight", "got ", k, " kernels, want ", kernels);
  call.want(c * rows * columns <= INT32_MAX, "weight", "kernels of more than 2^31 - 1 elements");
  call.check({r, s * c, rows, columns}, name, product);
}

inline void check_mix_kernels(const Tensor& mix, const Tensor& weight, const Tensor& out) {
  const Arguments call("mix_kernels", "mix", mix);
  check_mix(call, mix, weight, "out", out);
}

inline void check_mix_kernels_backward(const Tensor& grad, const Tensor& mix, const Tensor& weight,
                                       const Tensor& grad_mix, const Tensor& grad_weight) {
  const Arguments call("mix_kernels_backward", "grad", grad);
  check_mix(call, mix, weight, "grad", grad);
  const auto &m = mix.sizes(), &w = weight.sizes();
  call.check({m[0], m[1], m[2]}, "grad_mix", grad_mix);
  call.check({w[0], w[1], w[2], w[3]}, "grad_weight", grad_weight);
}

}  // namespace fastiqa
