// The arguments of mix_kernels and its adjoint, and matrices in tensors of convolution kernels, for both devices.
//
// The columns of a weight (K, C, h, w) are the elements of a kernel in the order in which they lie in memory, whatever its
// memory format; other tensors have the same columns elsewhere. Rows are its K kernels, or the R S mixtures of kernels
// that a tensor (R, S C, h, w) holds.
#pragma once

#include "core/arguments.h"
#include "core/nest.h"

namespace fastiqa {

// ---- arguments ----

/// mix (R, S, K), weight (K, C, k, k) and a tensor with the shape of their product (R, SC, k, k).
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

// ---- matrices ----

/// Fewer than 2^31.
struct Columns {
  int64_t size[3], stride[3];  // innermost first

  FASTIQA_HD int64_t count() const { return size[0] * size[1] * size[2]; }
  FASTIQA_HD int64_t run() const { return size[0]; }  // columns that are one stride apart
  FASTIQA_HD bool side_by_side() const { return size[0] == 1 || stride[0] == 1; }
  FASTIQA_HD int64_t at(int64_t n) const {
    if (size[0] == count()) return n * stride[0];
    const uint32_t all = static_cast<uint32_t>(n), inner = static_cast<uint32_t>(size[0]);  // cheaper than in 64 bits
    const uint32_t middle = static_cast<uint32_t>(size[1]), run = all / inner, outer = run / middle;
    return (all - run * inner) * stride[0] + (run - outer * middle) * stride[1] + outer * stride[2];
  }
};

/// Where the columns of `weight` are in x.
inline Columns columns_of(const Tensor& x, const Tensor& weight) {
  const auto& size = weight.sizes();
  const int64_t sizes[kMaxRank] = {1, size[1], size[2], size[3]};
  const auto nest = make_nest<2>(sizes, {x.strides().data(), weight.strides().data()});
  Columns columns;
  std::copy_n(nest.size, 3, columns.size);
  std::copy_n(nest.stride[0], 3, columns.stride);
  return columns;
}

/// The rows (r, s) of a tensor (R, S C, ...), C being `channels`.
template <class T>
struct Rows {
  T* data;
  int64_t count, sides, stride[2];

  FASTIQA_HD T* operator[](int64_t m) const { return data + m / sides * stride[0] + m % sides * stride[1]; }
};

template <class T>
Rows<T> rows_of(const Tensor& x, int64_t channels = 1) {
  const int64_t sides = x.sizes()[1] / channels;
  return {data_of<T>(x), x.sizes()[0] * sides, sides, {x.strides()[0], x.strides()[1] * channels}};
}

}  // namespace fastiqa
