// What an operator file needs of a tensor and of the registry, once on PyTorch's stable ABI and once, for the CPU
// emulation of the CUDA sources, on plain memory (emulate.h). Kernels see pointers, sizes and strides only.
//
//   FASTIQA_REGISTER(op, "op(Tensor x, Tensor(a!) y) -> ()")     makes torch.ops.fastiqa_<device>.op
#pragma once

#include "dtype.h"

#if defined(FASTIQA_EMULATE)
#include "emulate.h"
#else

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#if defined(__CUDACC__)
#define FASTIQA_NAMESPACE fastiqa_cuda
#define FASTIQA_DEVICE_KEY CUDA
#else
#define FASTIQA_NAMESPACE fastiqa_cpu
#define FASTIQA_DEVICE_KEY CPU
#endif

#define FASTIQA_CHECK(condition, ...) STD_TORCH_CHECK(condition, __VA_ARGS__)

#define FASTIQA_REGISTER(op, schema)                                        \
  STABLE_TORCH_LIBRARY_FRAGMENT(FASTIQA_NAMESPACE, m) { m.def(schema); }    \
  STABLE_TORCH_LIBRARY_IMPL(FASTIQA_NAMESPACE, FASTIQA_DEVICE_KEY, m) {     \
    m.impl(#op, TORCH_BOX(&op));                                            \
  }

namespace fastiqa {

using torch::stable::Tensor;

inline Dtype dtype_of(const Tensor& tensor) {
  using torch::headeronly::ScalarType;
  switch (tensor.scalar_type()) {
    case ScalarType::Double: return Dtype::float64;
    case ScalarType::Float: return Dtype::float32;
    case ScalarType::BFloat16: return Dtype::bfloat16;
    case ScalarType::Half: return Dtype::float16;
    default: FASTIQA_CHECK(false, "fastiqa kernels take float64, float32, bfloat16 and float16"); return {};
  }
}

}  // namespace fastiqa

#endif

#include "nest.h"

namespace fastiqa {

// Element types that kernels are compiled for, a bit each; the sanitizers' builds leave some out to compile sooner.
#ifndef FASTIQA_DTYPES
#define FASTIQA_DTYPES 15
#endif

/// Calls f.template operator()<T>(), if the library was compiled for `dtype`, which T is.
template <class T, Dtype dtype, class F>
void with_dtype(F f) {
  if constexpr (FASTIQA_DTYPES >> static_cast<int>(dtype) & 1)
    f.template operator()<T>();
  else
    FASTIQA_CHECK(false, "fastiqa kernels were compiled without this dtype");
}

/// Calls f.template operator()<T>() with the element type of `tensor`.
template <class F>
void visit_dtype(const Tensor& tensor, F f) {
  switch (dtype_of(tensor)) {
    case Dtype::float64: return with_dtype<double, Dtype::float64>(f);
    case Dtype::float32: return with_dtype<float, Dtype::float32>(f);
    case Dtype::bfloat16: return with_dtype<bfloat16, Dtype::bfloat16>(f);
    case Dtype::float16: return with_dtype<float16, Dtype::float16>(f);
  }
}

/// A four-dimensional operand of an element-wise pass: a tensor, or some of its channels.
struct View {
  void* data;
  std::array<int64_t, kMaxRank> sizes;
  std::array<int64_t, kMaxRank> strides;
};

inline View view(const Tensor& tensor) {
  FASTIQA_CHECK(tensor.dim() == kMaxRank, "fastiqa kernels take four-dimensional tensors");
  View view{tensor.data_ptr(), {}, {}};
  std::copy_n(tensor.sizes().data(), kMaxRank, view.sizes.begin());
  std::copy_n(tensor.strides().data(), kMaxRank, view.strides.begin());
  return view;
}

/// Channels [begin, begin + count) of a tensor.
template <class T>
View channels(const Tensor& tensor, int64_t begin, int64_t count) {
  View result = view(tensor);
  FASTIQA_CHECK(begin + count <= result.sizes[1], "fastiqa: channels out of range");
  result.data = static_cast<T*>(result.data) + begin * result.strides[1];
  result.sizes[1] = count;
  return result;
}

/// The folded nest of several views, which must have equal sizes.
template <size_t kOperands>
Nest<kOperands> make_nest(const std::array<View, kOperands>& views) {
  std::array<const int64_t*, kOperands> strides;
  for (size_t o = 0; o < kOperands; ++o) {
    FASTIQA_CHECK(views[o].sizes == views[0].sizes, "fastiqa: operands of an element-wise pass differ in size");
    strides[o] = views[o].strides.data();
  }
  return make_nest<kOperands>(views[0].sizes.data(), strides);
}

}  // namespace fastiqa
