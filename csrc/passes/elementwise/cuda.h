// One pass over any number of inputs and outputs of equal size, on a GPU.
//
//   elementwise<kInputs, T>(views, f, on)        f(x, y): y[0..] = function of x[0..], in the accumulation type
//
// A thread moves one pack of 16 bytes an operand where sizes, strides and addresses allow, else one element; either way
// neighbouring threads touch neighbouring memory. The same kernel serves every layout (core/nest.h).
#pragma once

#include "core/launch.h"
#include "core/nest.h"
#include "core/pack.h"

namespace fastiqa {

template <class T, int kOperands>
struct Operands {
  T* data[kOperands];
};

template <int kInputs, int kPack, class Index, class T, int kOperands, class F>
__global__ void __launch_bounds__(kThreads)
    elementwise_kernel(const Operands<T, kOperands> operands, const Nest<kOperands> nest, const Index packs, const F f) {
  const Index p = global_thread<Index>();
  if (p >= packs) return;
  const Index columns = static_cast<Index>(nest.size[0] / kPack);
  const Index row = p / columns, plane = row / static_cast<Index>(nest.size[1]);
  const int64_t i0 = static_cast<int64_t>(p % columns) * kPack;
  const int64_t i1 = row % static_cast<Index>(nest.size[1]);
  const int64_t i2 = plane % static_cast<Index>(nest.size[2]), i3 = plane / static_cast<Index>(nest.size[2]);

  T* at[kOperands];
#pragma unroll
  for (int o = 0; o < kOperands; ++o) {
    const int64_t column = kPack > 1 ? i0 : i0 * nest.stride[o][0];
    at[o] = operands.data[o] + column + i1 * nest.stride[o][1] + i2 * nest.stride[o][2] + i3 * nest.stride[o][3];
  }
  Pack<T, kPack> in[kInputs], out[kOperands - kInputs];
#pragma unroll
  for (int o = 0; o < kInputs; ++o) in[o] = Pack<T, kPack>::load(at[o]);
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    accumulator_t<T> x[kInputs], y[kOperands - kInputs];
#pragma unroll
    for (int o = 0; o < kInputs; ++o) x[o] = widen(in[o].element[k]);
    f(x, y);
#pragma unroll
    for (int o = kInputs; o < kOperands; ++o) out[o - kInputs].element[k] = narrow<T>(y[o - kInputs]);
  }
#pragma unroll
  for (int o = kInputs; o < kOperands; ++o) out[o - kInputs].store(at[o]);
}

/// Whether every operand can be moved in packs: neighbours in memory, all lengths, strides and addresses multiples.
template <int kPack, class T, int kOperands>
bool packable(const Nest<kOperands>& nest, const Operands<T, kOperands>& operands) {
  if (!nest.unit_stride() || nest.size[0] % kPack != 0) return false;
  for (int o = 0; o < kOperands; ++o) {
    if (reinterpret_cast<uintptr_t>(operands.data[o]) % (kPack * sizeof(T)) != 0) return false;
    for (int d = 1; d < kMaxRank; ++d)
      if (nest.stride[o][d] % kPack != 0) return false;
  }
  return true;
}

template <int kInputs, class T, size_t kOperands, class F>
void elementwise(const std::array<View, kOperands>& views, F f, const Tensor& on) {
  constexpr int kOps = static_cast<int>(kOperands);
  constexpr int kPack = 16 / sizeof(T);
  const Nest<kOps> nest = make_nest(views);
  Operands<T, kOps> operands;
  for (size_t o = 0; o < kOperands; ++o) operands.data[o] = static_cast<T*>(views[o].data);

  const auto go = [&]<int kWidth, class Index>() {
    const int64_t packs = nest.elements() / kWidth;
    launch(elementwise_kernel<kInputs, kWidth, Index, T, kOps, F>, (packs + kThreads - 1) / kThreads, kThreads, on,
           operands, nest, static_cast<Index>(packs), f);
  };
  // 32-bit division is several times cheaper; up to 2^31 elements it is enough.
  const bool narrow_index = nest.elements() < INT32_MAX - kThreads;
  if (packable<kPack>(nest, operands))
    narrow_index ? go.template operator()<kPack, uint32_t>() : go.template operator()<kPack, int64_t>();
  else
    narrow_index ? go.template operator()<1, uint32_t>() : go.template operator()<1, int64_t>();
}

}  // namespace fastiqa
