// SSIM on a GPU: what is computed of the moments under a window.
//
// Of x and d = x - y, less constants near their pixels, four moments are summed, E[x], E[d], E[d²] and E[xy]. With
//
//   N = 2 cov + c2,  contrast C = N / (N + var d),    M = 2 mean x mean y + c1,  luminance L = M / (M + mean d ²)
//
// equal images give exactly 1, and gradients of almost equal ones lose no digits: nothing nearly equal is subtracted.
#pragma once

#include "ops/ssim/window.h"

namespace fastiqa {

constexpr int kQuantities = 4;

template <class A>
struct Stabilisers {
  A c1, c2;
};

/// Numbers near the pixels of x and y in a part of the image, the same in every thread.
template <class A>
struct Centre {
  A x, y;
};

/// Of one window: N and M, the denominators of contrast and luminance, and the means that gradients need.
template <class A>
struct Similarity {
  A mean_x, mean_d;            // of x and x - y less the centre
  A whole_x, whole_d;          // of x and x - y
  A excess, contrast_divisor;  // C = (divisor - excess) / divisor
  A contrast, luminance_divisor, luminance;

  __device__ Similarity(const A (&sums)[kQuantities], const Centre<A>& centre, const Stabilisers<A>& stabilisers) {
    mean_x = sums[0], mean_d = sums[1];
    const A twice_covariance = 2 * (sums[3] - mean_x * (mean_x - mean_d));
    // Variances are at least 0 and at least twice the covariance, whatever was rounded; NaN stays.
    excess = sums[2] - mean_d * mean_d;
    if (excess < 0) excess = 0;
    if (excess < -2 * twice_covariance) excess = -2 * twice_covariance;
    const A contrast_dividend = twice_covariance + stabilisers.c2;
    contrast_divisor = contrast_dividend + excess;
    contrast = contrast_dividend / contrast_divisor;
    whole_x = mean_x + centre.x, whole_d = mean_d + (centre.x - centre.y);
    const A luminance_dividend = 2 * whole_x * (whole_x - whole_d) + stabilisers.c1;
    luminance_divisor = luminance_dividend + whole_d * whole_d;
    luminance = luminance_dividend / luminance_divisor;
  }

  __device__ A ssim() const { return contrast * luminance; }

  /// What a window spreads over its pixels: P_x, P_y, U and R. With w* the sum of what the windows spread,
  ///
  ///   grad_x = w*P_x + x w*U - d w*R,   grad_y = w*P_y + (x - d) w*U + d w*R,   U = R (1 - C)
  ///
  /// shift: the centre of this window's moments less that of x and d there.
  __device__ void spread(A grad_ssim, A grad_contrast, const Centre<A>& shift, A (&maps)[kQuantities]) const {
    const A by_contrast = 1 / contrast_divisor, by_luminance = 1 / luminance_divisor;
    const A r = 2 * (grad_ssim * luminance + grad_contrast) * by_contrast, u = r * (excess * by_contrast);
    // mean y - L mean x = -mean d (1 - mean x mean d / divisor), and likewise mean x - L mean y
    const A tilt = whole_d * by_luminance, p = 2 * grad_ssim * contrast * tilt;
    const A x = mean_x + shift.x, d = mean_d + (shift.x - shift.y);
    maps[0] = r * d - u * x - p * (1 - whole_x * tilt);
    maps[1] = p * (1 + (whole_x - whole_d) * tilt) - r * d - u * (x - d);
    maps[2] = u;
    maps[3] = r;
  }
};

}  // namespace fastiqa
