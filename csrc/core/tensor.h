// Tensors, threads and the registry of operators, on PyTorch's stable ABI. Kernels see only pointers, sizes and strides.
// The tests' own programs include emulate/plain_tensor.h first, which puts plain memory in PyTorch's place.
//
//   FASTIQA_REGISTER(op, "op(Tensor x, Tensor(a!) y) -> ()")     makes torch.ops.fastiqa_<device>.op
#pragma once

#include <algorithm>
#include <array>
#include <type_traits>

#include "core/check.h"
#include "core/dtype.h"

#if !defined(FASTIQA_PLAIN)

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

#define FASTIQA_REGISTER(op, schema)                                        \
  STABLE_TORCH_LIBRARY_FRAGMENT(FASTIQA_NAMESPACE, m) { m.def(schema); }    \
  STABLE_TORCH_LIBRARY_IMPL(FASTIQA_NAMESPACE, FASTIQA_DEVICE_KEY, m) {     \
    m.impl(#op, TORCH_BOX(&op));                                            \
  }

namespace fastiqa {

using torch::stable::get_num_threads;
using torch::stable::parallel_for;
using torch::stable::Tensor;

inline torch::headeronly::ScalarType scalar_type_of(Dtype dtype) {
  using torch::headeronly::ScalarType;
  constexpr ScalarType types[] = {ScalarType::Double, ScalarType::Float, ScalarType::BFloat16, ScalarType::Half};
  return types[static_cast<int>(dtype)];
}

inline bool is_defined(const Tensor& tensor) { return tensor.defined(); }
inline bool has_dtype(const Tensor& tensor, Dtype dtype) { return tensor.scalar_type() == scalar_type_of(dtype); }

inline Dtype dtype_of(const Tensor& tensor) {
  const auto type = tensor.scalar_type();
  for (const Dtype dtype : kDtypes)
    if (type == scalar_type_of(dtype)) return dtype;
  fail("fastiqa kernels take float64, float32, bfloat16 and float16");
}

/// The number of the tensor's GPU; CPUs are -1.
inline int32_t device_of(const Tensor& tensor) { return tensor.is_cpu() ? -1 : tensor.get_device_index(); }

}  // namespace fastiqa

#endif

namespace fastiqa {

constexpr int64_t kGrain = 32768;  // elements a task at the least: ATen's own grain

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

/// A tensor's elements: to be read where T is const, whereupon a copy-on-write tensor stays one, else to be written.
template <class T>
T* data_of(const Tensor& tensor) {
  if constexpr (std::is_const_v<T>)
    return static_cast<T*>(tensor.const_data_ptr());
  else
    return static_cast<T*>(tensor.mutable_data_ptr());
}

/// As data_of<const T>, for passes whose inputs and outputs are operands of one type.
template <class T>
T* data_to_read(const Tensor& tensor) {
  return const_cast<T*>(data_of<const T>(tensor));
}

constexpr int kMaxRank = 4;

/// A four-dimensional operand of an element-wise pass: a tensor, or some of its channels.
struct View {
  void* data;
  std::array<int64_t, kMaxRank> sizes;
  std::array<int64_t, kMaxRank> strides;
};

inline View view_of(const Tensor& tensor, void* data) {
  FASTIQA_CHECK(tensor.dim() == kMaxRank, "fastiqa kernels take four-dimensional tensors");
  View view{data, {}, {}};
  std::copy_n(tensor.sizes().data(), kMaxRank, view.sizes.begin());
  std::copy_n(tensor.strides().data(), kMaxRank, view.strides.begin());
  return view;
}

/// An input. Call this and `written` outside parallel_for: inside, PyTorch does not copy a copy-on-write tensor.
inline View view(const Tensor& tensor) { return view_of(tensor, data_to_read<void>(tensor)); }

/// An output.
inline View written(const Tensor& tensor) { return view_of(tensor, data_of<void>(tensor)); }

/// Channels [begin, begin + count) of a view.
template <class T>
View channels(View view, int64_t begin, int64_t count) {
  FASTIQA_CHECK(begin + count <= view.sizes[1], "fastiqa: channels out of range");
  view.data = static_cast<T*>(view.data) + begin * view.strides[1];
  view.sizes[1] = count;
  return view;
}

}  // namespace fastiqa
