// The separable window of ssim, on both devices.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/check.h"

namespace fastiqa {

constexpr int kLargestSize = 33;  // LARGEST_SIZE in ops/ssim.py

/// A row of the window, which sums to 1.
template <class A>
struct Window {
  int size;
  A weight[kLargestSize];
};

/// Gaussian, or with sigma 0 uniform; as window() in ops/ssim.py.
template <class A>
Window<A> make_window(int64_t size, double sigma) {
  FASTIQA_CHECK(size % 2 == 1 && size >= 1 && size <= kLargestSize, "fastiqa: a window of an odd size up to 33");
  double weight[kLargestSize], total = 0;
  for (int64_t k = 0; k < size; ++k) {
    const double distance = static_cast<double>(k - size / 2);
    weight[k] = sigma > 0 ? std::exp(-distance * distance / (2 * sigma * sigma)) : 1;
    total += weight[k];
  }
  Window<A> window{static_cast<int>(size), {}};
  for (int64_t k = 0; k < size; ++k) window.weight[k] = static_cast<A>(weight[k] / total);
  return window;
}

}  // namespace fastiqa
