// A map of any strides as an argument of a CUDA kernel.
#pragma once

#include "core/tensor.h"

namespace fastiqa {

template <class T>
struct Strided {
  T* data;
  int64_t stride[4];

  __device__ T* at(int64_t n, int64_t c, int64_t y, int64_t x) const {
    return data + n * stride[0] + c * stride[1] + y * stride[2] + x * stride[3];
  }
};

template <class T>
Strided<T> strided_at(T* data, const Tensor& x) {
  Strided<T> result{data, {}};
  std::copy_n(x.strides().data(), x.dim(), result.stride);
  return result;
}

/// An input.
template <class T>
Strided<T> strided(const Tensor& x) {
  return strided_at(data_to_read<T>(x), x);
}

/// An output.
template <class T>
Strided<T> strided_written(const Tensor& x) {
  return strided_at(data_of<T>(x), x);
}

}  // namespace fastiqa
