// Runs of elements times gates, and the sums of their products with a second map, on the CPU.
#pragma once

#include "gates_cpu.h"

namespace fastiqa {

constexpr int kVector = 16;  // partial sums along a run: one sum would be scalar code, 2.3 instead of 0.9 ms

/// `outer` runs of `inner` elements; strides: [0] along a run, [1] between runs. The sums are indexed as the gates.
template <class T>
struct Runs {
  const T *in, *features;
  T* out;
  const accumulator_t<T>* gate;
  accumulator_t<T>* sum;
  int64_t inner, outer;
  int64_t in_stride[2], features_stride[2], out_stride[2], gate_stride[2];
};

template <bool kSum, class T>
FASTIQA_HD void multiply(const Runs<T>& runs) {
  using A = accumulator_t<T>;
  const bool unit = runs.in_stride[0] == 1 && runs.out_stride[0] == 1 && (!kSum || runs.features_stride[0] == 1);
  for (int64_t o = 0; o < runs.outer; ++o) {
    const T* in = runs.in + o * runs.in_stride[1];
    const T* features = kSum ? runs.features + o * runs.features_stride[1] : nullptr;
    T* out = runs.out + o * runs.out_stride[1];
    const A* gate = runs.gate + o * runs.gate_stride[1];
    A* sum = kSum ? runs.sum + o * runs.gate_stride[1] : nullptr;
    if (unit && runs.gate_stride[0] == 1) {
#pragma GCC ivdep
      for (int64_t i = 0; i < runs.inner; ++i) {
        const A x = widen(in[i]);
        out[i] = narrow<T>(x * gate[i]);
        if constexpr (kSum) sum[i] += x * widen(features[i]);
      }
    } else if (unit && runs.gate_stride[0] == 0) {
      const A factor = *gate;
      A part[kVector] = {};  // one sum would be scalar code
      const auto some = [&](int64_t begin, int64_t count) {
#pragma GCC ivdep
        for (int64_t v = 0; v < count; ++v) {
          const A x = widen(in[begin + v]);
          out[begin + v] = narrow<T>(x * factor);
          if constexpr (kSum) part[v] += x * widen(features[begin + v]);
        }
      };
      int64_t i = 0;
      if constexpr (kSum)
        for (; i + kVector <= runs.inner; i += kVector) some(i, kVector);
      some(i, runs.inner - i);
      for (int half = kVector / 2; kSum && half > 0; half /= 2)
        for (int v = 0; v < half; ++v) part[v] += part[v + half];
      if constexpr (kSum) *sum += part[0];
    } else {
      for (int64_t i = 0; i < runs.inner; ++i) {
        const A x = widen(in[i * runs.in_stride[0]]);
        out[i * runs.out_stride[0]] = narrow<T>(x * gate[i * runs.gate_stride[0]]);
        if constexpr (kSum) sum[i * runs.gate_stride[0]] += x * widen(features[i * runs.features_stride[0]]);
      }
    }
  }
}

/// Whether the rows of a map follow one another without a gap.
FASTIQA_HD bool dense_rows(const View& view) { return view.strides[2] == view.strides[3] * view.sizes[3]; }

}  // namespace fastiqa
