// Symmetric windows along one axis of a tile of vectors, on the CPU.
//
// Taps are added in pairs before they are multiplied: 11 taps are 6 multiplications and 5 additions, which processors
// with adders beside their multipliers do at once. With the size known, what a window spans stays in registers, so that
// each vector is loaded once.
#pragma once

#include "core/simd.h"
#include "ops/ssim/window.h"

namespace fastiqa {

/// in(m, v) sets v to vector m; out(i, s) gets the sum of the window over vectors i to i + size - 1, for n of i.
/// kSize 0: any size.
template <int kSize, int n, class A, class In, class Out>
FASTIQA_HD void filter(const Window<A>& window, In in, Out out) {
  if constexpr (kSize > 0) {
    constexpr int half = kSize / 2;
    Vec<A> weight[half + 1], near[kSize];
    unrolled<half + 1>([&](auto k) __attribute__((always_inline)) { weight[k] = Vec<A>{} + window.weight[half + k]; });
    unrolled<n + kSize - 1>([&](auto m) __attribute__((always_inline)) {
      in(m, near[m % kSize]);
      if constexpr (m >= kSize - 1) {
        constexpr int centre = m - half;
        Vec<A> sum = weight[0] * near[centre % kSize];
        unrolled<half>([&](auto k) __attribute__((always_inline)) {
          sum += weight[k + 1] * (near[(centre - 1 - k) % kSize] + near[(centre + 1 + k) % kSize]);
        });
        out(m - (kSize - 1), sum);
      }
    });
  } else {
    const int half = window.size / 2;
    const A* weight = window.weight + half;
    Vec<A> all[n + kLargestSize - 1];
    for (int m = 0; m < n + 2 * half; ++m) in(m, all[m]);
    for (int i = 0; i < n; ++i) {
      const Vec<A>* centre = all + i + half;
      Vec<A> sum = weight[0] * *centre;
      for (int k = 1; k <= half; ++k) sum += weight[k] * (centre[-k] + centre[k]);
      out(i, sum);
    }
  }
}

}  // namespace fastiqa
