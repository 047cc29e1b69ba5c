// The pass over 2x2 blocks (blocks.h) on a GPU.
//
// Where columns or channels lie side by side and sizes, strides and addresses allow, a thread owns neighbouring blocks
// that fill 16 bytes of a fine map: two rows of one access each along columns, four pixels of one each along channels.
// Else it owns one block. A coarse map is read and written in 8 bytes along columns, where it is half as wide.
#pragma once

#include "launch.h"
#include "pack.h"

namespace fastiqa {

template <class T, int kOperands>
struct BlockOperands {
  T* data[kOperands];
};

/// How a thread's blocks lie in memory: packs along columns, packs along channels, or one block with any strides.
enum class Walk { columns, channels, single };

template <Walk kWalk, class T>
constexpr int kBlocksAThread = kWalk == Walk::single    ? 1
                               : kWalk == Walk::columns ? 8 / static_cast<int>(sizeof(T))
                                                        : 16 / static_cast<int>(sizeof(T));

template <class M, Walk kWalk, class Index, class T, class F>
__global__ void __launch_bounds__(kThreads)
    blocks_kernel(const BlockOperands<T, M::operands> operands, const BlockNest<M::operands> nest,
                  const Index threads, const F f) {
  using A = accumulator_t<T>;
  constexpr int kCount = kBlocksAThread<kWalk, T>;
  const Index t = global_thread<Index>();
  if (t >= threads) return;
  const Index runs = static_cast<Index>(nest.size[0] / kCount);
  const Index i1 = t / runs, i2 = i1 / static_cast<Index>(nest.size[1]), i3 = i2 / static_cast<Index>(nest.size[2]);
  const int64_t index[kMaxRank] = {static_cast<int64_t>(t % runs) * kCount,
                                   static_cast<int64_t>(i1 % static_cast<Index>(nest.size[1])),
                                   static_cast<int64_t>(i2 % static_cast<Index>(nest.size[2])),
                                   static_cast<int64_t>(i3)};
  const bool second_row = 2 * (nest.by_channel ? index[2] : index[1]) + 1 < nest.height;
  const bool second_column = kWalk == Walk::columns || 2 * (nest.by_channel ? index[1] : index[0]) + 1 < nest.width;

  const auto at = [&](int o) {
    const auto& stride = nest.stride[o];
    return operands.data[o] + index[0] * stride[0] + index[1] * stride[1] + index[2] * stride[2] + index[3] * stride[3];
  };
  Block<A, M::fine_in, M::coarse_in> in[kCount] = {};
  Block<A, M::fine_out, M::coarse_out> out[kCount];

#pragma unroll
  for (int k = 0; k < M::fine_in; ++k) {
    const T* from = at(k);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (r == 1 && !second_row) break;
      if constexpr (kWalk == Walk::columns) {
        const auto pack = Pack<T, 2 * kCount>::load(from + r * nest.row[k]);
#pragma unroll
        for (int j = 0; j < 2 * kCount; ++j) in[j / 2].fine[k][2 * r + j % 2] = widen(pack.element[j]);
      } else {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          if (c == 1 && !second_column) break;
          const auto pack = Pack<T, kCount>::load(from + r * nest.row[k] + c * nest.column[k]);
#pragma unroll
          for (int j = 0; j < kCount; ++j) in[j].fine[k][2 * r + c] = widen(pack.element[j]);
        }
      }
    }
  }
#pragma unroll
  for (int k = 0; k < M::coarse_in; ++k) {
    const auto pack = Pack<T, kCount>::load(at(M::fine_in + k));
#pragma unroll
    for (int j = 0; j < kCount; ++j) in[j].coarse[k] = widen(pack.element[j]);
  }

  const A share = (second_row ? A(0.5) : A(1)) * (second_column ? A(0.5) : A(1));
#pragma unroll
  for (int j = 0; j < kCount; ++j) f(in[j], out[j], share);

#pragma unroll
  for (int k = 0; k < M::fine_out; ++k) {
    const int o = M::inputs + k;
    T* to = at(o);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (r == 1 && !second_row) break;
      if constexpr (kWalk == Walk::columns) {
        Pack<T, 2 * kCount> pack;
#pragma unroll
        for (int j = 0; j < 2 * kCount; ++j) pack.element[j] = narrow<T>(out[j / 2].fine[k][2 * r + j % 2]);
        pack.store(to + r * nest.row[o]);
      } else {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          if (c == 1 && !second_column) break;
          Pack<T, kCount> pack;
#pragma unroll
          for (int j = 0; j < kCount; ++j) pack.element[j] = narrow<T>(out[j].fine[k][2 * r + c]);
          pack.store(to + r * nest.row[o] + c * nest.column[o]);
        }
      }
    }
  }
#pragma unroll
  for (int k = 0; k < M::coarse_out; ++k) {
    Pack<T, kCount> pack;
#pragma unroll
    for (int j = 0; j < kCount; ++j) pack.element[j] = narrow<T>(out[j].coarse[k]);
    pack.store(at(M::inputs + M::fine_out + k));
  }
}

/// Whether every operand can be moved in packs of that walk: lengths, strides and addresses are multiples.
template <class M, Walk kWalk, class T>
bool packable(const BlockNest<M::operands>& nest, const BlockOperands<T, M::operands>& operands) {
  constexpr int kCount = kBlocksAThread<kWalk, T>;
  if (!nest.unit || nest.by_channel != (kWalk == Walk::channels) || nest.size[0] % kCount != 0) return false;
  if (kWalk == Walk::columns && nest.width % 2 != 0) return false;
  for (int o = 0; o < M::operands; ++o) {
    const int pack = kWalk == Walk::columns && M::fine(o) ? 2 * kCount : kCount;
    if (reinterpret_cast<uintptr_t>(operands.data[o]) % (pack * sizeof(T)) != 0) return false;
    if (nest.row[o] % pack != 0 || (kWalk == Walk::channels && nest.column[o] % pack != 0)) return false;
    for (int d = 1; d < kMaxRank; ++d)
      if (nest.stride[o][d] % pack != 0) return false;
  }
  return true;
}

template <class M, class T, size_t kViews, class F>
void blocks(const std::array<View, kViews>& views, F f, const Tensor& on) {
  const auto nest = make_block_nest<M>(views);
  BlockOperands<T, M::operands> operands;
  for (int o = 0; o < M::operands; ++o) operands.data[o] = static_cast<T*>(views[o].data);

  const auto go = [&]<Walk kWalk, class Index>() {
    const int64_t threads = nest.blocks() / kBlocksAThread<kWalk, T>;
    launch(blocks_kernel<M, kWalk, Index, T, F>, (threads + kThreads - 1) / kThreads, kThreads, on, operands, nest,
           static_cast<Index>(threads), f);
  };
  const auto choose_index = [&]<Walk kWalk>() {
    // 32-bit division is several times cheaper; up to 2^31 blocks it is enough.
    nest.blocks() < INT32_MAX - kThreads ? go.template operator()<kWalk, uint32_t>()
                                         : go.template operator()<kWalk, int64_t>();
  };
  if (packable<M, Walk::columns>(nest, operands))
    choose_index.template operator()<Walk::columns>();
  else if (packable<M, Walk::channels>(nest, operands))
    choose_index.template operator()<Walk::channels>();
  else
    choose_index.template operator()<Walk::single>();
}

}  // namespace fastiqa
