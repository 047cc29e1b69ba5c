// The arguments that ssim and its adjoint accept, on both devices.
#pragma once

#include "core/arguments.h"
#include "ops/ssim/window.h"

namespace fastiqa {

/// Rows and columns of windows over images of these sizes.
inline std::array<int64_t, 2> check_windows(const Arguments& call, const std::array<int64_t, 4>& image, int64_t size) {
  call.want(size % 2 == 1 && size >= 1 && size <= kLargestSize, "size", "got ", size, ", want an odd number from 1 to ",
            kLargestSize);
  call.want(image[2] >= size && image[3] >= size, "x", "got ", image[2], "x", image[3], " pixels, want ", size, "x",
            size, " at least");
  call.want(image[2] <= INT32_MAX / image[3], "x", "an image of more than 2^31 - 1 pixels");
  return {image[2] - size + 1, image[3] - size + 1};
}

inline void check_ssim(const Tensor& x, const Tensor& y, int64_t size, bool map, const Tensor& ssim,
                       const Tensor& contrast) {
  const Arguments call("ssim", "x", x);
  const auto [n, c, h, w] = call.sizes<4>("x", x);
  const auto [rows, columns] = check_windows(call, {n, c, h, w}, size);
  call.check({n, c, h, w}, "y", y);
  call.check_wide({n, c, map ? rows : 1, map ? columns : 1}, "ssim", ssim, "contrast", contrast);
}

inline void check_ssim_backward(const Tensor& grad_ssim, const Tensor& grad_contrast, const Tensor& x, const Tensor& y,
                                int64_t size, const Tensor& grad_x, const Tensor& grad_y) {
  const Arguments call("ssim_backward", "x", x);
  const auto [n, c, h, w] = call.sizes<4>("x", x);
  const auto [rows, columns] = check_windows(call, {n, c, h, w}, size);
  call.check({n, c, h, w}, "y", y, "grad_x", grad_x, "grad_y", grad_y);
  const auto check_gradient = [&, n = n, c = c, rows = rows, columns = columns](const char* name, const Tensor& grad) {
    // One at every window, or one that all windows of a plane share.
    const bool shared = grad.dim() == 4 && grad.sizes()[2] == 1 && grad.sizes()[3] == 1;
    call.check_wide({n, c, shared ? 1 : rows, shared ? 1 : columns}, name, grad);
  };
  check_gradient("grad_ssim", grad_ssim);
  check_gradient("grad_contrast", grad_contrast);
}

}  // namespace fastiqa
