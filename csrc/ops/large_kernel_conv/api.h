// The arguments that large_kernel_conv and its adjoints accept, on both devices.
#pragma once

#include "core/arguments.h"

namespace fastiqa {

inline void check_large_kernel_conv(const Tensor& x, const Tensor& w5, const Tensor& b5, const Tensor& w7,
                                    const Tensor& b7, const Tensor& out) {
  const Arguments call("large_kernel_conv", "x", x);
  const auto [n, c, h, w] = call.sizes<4>("x", x);
  call.check({c, 1, 5, 5}, "w5", w5);
  call.check({c, 1, 7, 7}, "w7", w7);
  call.check({c}, "b5", b5, "b7", b7);
  call.check({n, c, h, w}, "out", out);
}

inline void check_large_kernel_conv_input_backward(const Tensor& grad, const Tensor& w5, const Tensor& w7,
                                                   const Tensor& grad_x) {
  const Arguments call("large_kernel_conv_input_backward", "grad", grad);
  const auto [n, c, h, w] = call.sizes<4>("grad", grad);
  call.check({c, 1, 5, 5}, "w5", w5);
  call.check({c, 1, 7, 7}, "w7", w7);
  call.check({n, c, h, w}, "grad_x", grad_x);
}

inline void check_large_kernel_conv_backward(const Tensor& x, const Tensor& w5, const Tensor& b5, const Tensor& w7,
                                             const Tensor& grad, const Tensor& grad_x, const Tensor& grad_w5,
                                             const Tensor& grad_b5, const Tensor& grad_w7, const Tensor& grad_b7) {
  const Arguments call("large_kernel_conv_backward", "x", x);
  const auto [n, c, h, w] = call.sizes<4>("x", x);
  call.check({c, 1, 5, 5}, "w5", w5, "grad_w5", grad_w5);
  call.check({c, 1, 7, 7}, "w7", w7, "grad_w7", grad_w7);
  call.check({c}, "b5", b5, "grad_b5", grad_b5, "grad_b7", grad_b7);
  call.check({n, c, h, w}, "grad", grad, "grad_x", grad_x);
}

}  // namespace fastiqa
