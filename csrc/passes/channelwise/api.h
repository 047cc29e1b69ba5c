// channelwise<kInputs>(maps, values, f, on) and channelwise_sum<kInputs>(maps, values, sums, f, on): one pass over
// feature maps of equal size in which every channel of every sample has values of its own, and may have sums.
//
//   maps     kInputs inputs, then the outputs, if any: (N, C, H, W), any strides, as of<T>(view(x), ...)
//   values   (N, C, 1, 1) inputs: gates, scales, shifts, of one element type; f.prepare, if f has it, is computed before
//            the pass, once a channel where memory order allows, so it may cost what a sigmoid costs
//   sums     (N, C, 1, 1) outputs: the sums over H, W of f's terms; f.finish if f has it turns them into what they stand
//            for
//
// f is written once for both devices, in the accumulation type A of the maps (f.finish on the CPU in float64):
//
//   void prepare(A (&value)[kValues]) const                                                   in place
//   void operator()(const A (&x)[kInputs], const A (&value)[kValues], A (&y)[outputs]) const               channelwise
//   void operator()(const A (&x)[kInputs], const A (&value)[kValues], A (&y)[outputs], A (&term)[kSums]) const
//   void finish(const A (&value)[kValues], A (&sum)[kSums]) const       in place, from values as they were handed over
//
// Where f has `static constexpr bool kExact = true` rounding errors do not add up, and sums are of type exact_t<A>, which
// converts to double: a double, on a GPU a float and what its roundings lost. f has no finish then.
//
// each_channel(count, f, on) calls f(c) for every c below count: what a few numbers a channel need between two passes,
// which may compute in double.
//
// Sums use no atomics and their order depends on sizes and layout alone, not on the number of threads: partial sums of
// fixed blocks of pixels are added in order.
#pragma once

#include "core/tensor.h"

namespace fastiqa {

/// Operands with elements of one type.
template <class T, size_t kCount>
struct Views {
  std::array<View, kCount> view;
};

template <class T, class... V>
Views<T, sizeof...(V)> of(const V&... views) {
  return {{views...}};
}

/// One number a channel, of any stride.
template <class T>
struct Column {
  T* data;
  int64_t stride;

  explicit Column(const Tensor& tensor) : data(data_of<T>(tensor)), stride(tensor.strides()[0]) {}
  explicit Column(T* dense) : data(dense), stride(1) {}

  FASTIQA_HD T& operator[](int64_t c) const { return data[c * stride]; }

  /// As (N, C, 1, 1).
  View for_samples(int64_t n, int64_t c) const {
    return {const_cast<std::remove_const_t<T>*>(data), {n, c, 1, 1}, {0, stride, 1, 1}};
  }
};

/// Whether f wants sums without accumulated rounding errors.
template <class F>
constexpr bool kExactSums = false;
template <class F>
  requires(F::kExact)
constexpr bool kExactSums<F> = true;

/// An array's length where C++ wants at least one element.
constexpr int at_least_one(int count) { return count > 0 ? count : 1; }

}  // namespace fastiqa

#if defined(__CUDACC__) || defined(FASTIQA_EMULATE)
#include "passes/channelwise/cuda.h"
#else
#include "passes/channelwise/cpu.h"
#endif
