// The pass over 2x2 blocks (pass.h) on a GPU.
//
// Where columns or channels lie side by side and sizes, strides and addresses allow, a thread owns neighbouring blocks
// that fill 16 bytes of a fine map: two rows of one access each along columns, four pixels of one each along channels.
// Else it owns one block. A coarse map is read and written in 8 bytes along columns, where it is half as wide.
#pragma once

#include "core/launch.h"
#include "core/pack.h"
#include "passes/blocks/api.h"

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

/// What a thread holds of a fine map: along columns the rows of its blocks, else their pixels. It stays in the map's own
/// type until a block is computed: widened on arrival, float16 took 68 registers in octave_split's backward, so 56.
template <Walk kWalk, class T>
struct FinePacks {
  static constexpr bool kColumns = kWalk == Walk::columns;
  static constexpr int kPacks = kColumns ? 2 : 4;
  static constexpr int kWidth = kColumns ? 2 * kBlocksAThread<kWalk, T> : kBlocksAThread<kWalk, T>;

  Pack<T, kWidth> pack[kPacks];

  __device__ T& pixel(int block, int k) {
    return kColumns ? pack[k / 2].element[2 * block + k % 2] : pack[k % kPacks].element[block];
  }

  /// f(pack, pointer) for each that exists.
  template <class Each>
  __device__ void visit(T* at, int64_t row, int64_t column, bool second_row, bool second_column, Each f) {
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const int r = kColumns ? k : k / 2, c = kColumns ? 0 : k % 2;
      if ((r == 0 || second_row) && (c == 0 || second_column)) f(pack[k], at + r * row + c * column);
    }
  }
};

/// Holds nvcc to 64 registers, left alone it takes up to 78; with 64-bit indices to 80, since some would spill.
template <class Index>
constexpr int kBlocksAnSm = sizeof(Index) == 4 ? 4 : 3;

template <class M, Walk kWalk, class Index, class T, class F>
__global__ void __launch_bounds__(kThreads, kBlocksAnSm<Index>)
    blocks_kernel(const BlockOperands<T, M::operands> operands, const BlockNest<M::operands> nest, const Index threads,
                  const F f) {
  using A = accumulator_t<T>;
  constexpr int kCount = kBlocksAThread<kWalk, T>;
  const Index t = global_thread<Index>();
  if (t >= threads) return;
  const Index runs = static_cast<Index>(nest.size[0] / kCount);
  const Index run = t / runs, plane = run / static_cast<Index>(nest.size[1]);
  const int64_t i0 = static_cast<int64_t>(t % runs) * kCount;
  const int64_t i1 = run % static_cast<Index>(nest.size[1]);
  const int64_t i2 = plane % static_cast<Index>(nest.size[2]), i3 = plane / static_cast<Index>(nest.size[2]);
  const bool second_row = 2 * (nest.by_channel ? i2 : i1) + 1 < nest.height;
  const bool second_column = kWalk == Walk::columns || 2 * (nest.by_channel ? i1 : i0) + 1 < nest.width;
  const auto at = [&](int o) {
    const auto& stride = nest.stride[o];
    return operands.data[o] + i0 * stride[0] + i1 * stride[1] + i2 * stride[2] + i3 * stride[3];
  };

  FinePacks<kWalk, T> in[M::fine_in > 0 ? M::fine_in : 1] = {}, out[M::fine_out > 0 ? M::fine_out : 1];
  Pack<T, kCount> coarse_in[M::coarse_in > 0 ? M::coarse_in : 1], coarse_out[M::coarse_out > 0 ? M::coarse_out : 1];
#pragma unroll
  for (int k = 0; k < M::fine_in; ++k)
    in[k].visit(at(k), nest.row[k], nest.column[k], second_row, second_column,
                [](auto& pack, const T* from) { pack = pack.load(from); });
#pragma unroll
  for (int k = 0; k < M::coarse_in; ++k) coarse_in[k] = Pack<T, kCount>::load(at(M::fine_in + k));

  const A share = (second_row ? A(0.5) : A(1)) * (second_column ? A(0.5) : A(1));
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    Block<A, M::fine_in, M::coarse_in> x;
    Block<A, M::fine_out, M::coarse_out> y;
#pragma unroll
    for (int k = 0; k < 4 * M::fine_in; ++k) x.fine[k / 4][k % 4] = widen(in[k / 4].pixel(j, k % 4));
#pragma unroll
    for (int k = 0; k < M::coarse_in; ++k) x.coarse[k] = widen(coarse_in[k].element[j]);
    f(x, y, share);
#pragma unroll
    for (int k = 0; k < 4 * M::fine_out; ++k) out[k / 4].pixel(j, k % 4) = narrow<T>(y.fine[k / 4][k % 4]);
#pragma unroll
    for (int k = 0; k < M::coarse_out; ++k) coarse_out[k].element[j] = narrow<T>(y.coarse[k]);
  }

#pragma unroll
  for (int k = 0; k < M::fine_out; ++k) {
    const int o = M::inputs + k;
    out[k].visit(at(o), nest.row[o], nest.column[o], second_row, second_column,
                 [](const auto& pack, T* to) { pack.store(to); });
  }
#pragma unroll
  for (int k = 0; k < M::coarse_out; ++k) coarse_out[k].store(at(M::inputs + M::fine_out + k));
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
