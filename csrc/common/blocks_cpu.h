// The pass over 2x2 blocks (blocks.h) on the CPU: vector code where columns or channels lie side by side, a scalar loop
// for all other strides. Work is split by rows of blocks, so a batch of one fills every thread.
#pragma once

#include <cstring>

#include "elementwise_cpu.h"

namespace fastiqa {

/// How the blocks of one run lie in memory.
enum class Run { columns, channels, strided };

/// Blocks that share a row of the maps or a row of blocks: `count` runs, and one more, the tail, at an odd border.
template <class T, int kOperands>
struct BlockTile {
  T* data[kOperands];
  int64_t inner[kOperands];   // from block to block in a run
  int64_t middle[kOperands];  // from run to run
  int64_t row[kOperands];
  int64_t column[kOperands];
  int64_t length;    // complete blocks a run
  int64_t count;     // complete runs
  bool odd_length;   // runs along columns: one more block, of one column, ends each run
  bool tail;         // one more run: along columns the blocks' last row, along channels their last column
  bool last_row;     // runs along channels: the blocks have one row
  bool streamed;     // fine results go past the caches, a run of up to kStaged elements at a time
};

constexpr int64_t kStaged = 4096;

/// 16-bit types alone: 1.0 to 1.4 times as fast, 1.17 in the mean of 24 cases; float32 0.72 to 1.35 times.
template <class M, class T>
constexpr bool kStreamable = sizeof(T) == 2 && M::fine_out > 0;

// Two neighbours. 16-bit types are read and written as one word, so that the vector code takes pairs apart with shifts
// and masks instead of permutations.
template <class T, class A>
FASTIQA_HD void load_pair(const T* from, A& first, A& second) {
  if constexpr (sizeof(T) == 2) {
    uint32_t word;
    std::memcpy(&word, from, sizeof word);
    first = widen(T{static_cast<uint16_t>(word)});
    second = widen(T{static_cast<uint16_t>(word >> 16)});
  } else {
    first = widen(from[0]);
    second = widen(from[1]);
  }
}

template <class T, class A>
FASTIQA_HD void store_pair(T* to, A first, A second) {
  if constexpr (sizeof(T) == 2) {
    const uint32_t word = narrow<T>(first).bits | uint32_t{narrow<T>(second).bits} << 16;
    std::memcpy(to, &word, sizeof word);
  } else {
    to[0] = narrow<T>(first);
    to[1] = narrow<T>(second);
  }
}

/// Block i of a run, of kRows by kColumns pixels.
template <class M, Run kRun, int kRows, int kColumns, class T, int kOperands, class F>
FASTIQA_HD void one_block(const BlockTile<T, kOperands>& tile, T* const (&p)[kOperands], int64_t i, F f) {
  using A = accumulator_t<T>;
  constexpr bool kPairs = kRun == Run::columns && kColumns == 2;
  const auto at = [&](int o) {
    if constexpr (kRun == Run::strided) return p[o] + i * tile.inner[o];
    return p[o] + (kRun == Run::columns && M::fine(o) ? 2 : 1) * i;
  };
  Block<A, M::fine_in, M::coarse_in> in{};
  Block<A, M::fine_out, M::coarse_out> out;
  for (int k = 0; k < M::fine_in; ++k)
    for (int r = 0; r < kRows; ++r) {
      const T* from = at(k) + r * tile.row[k];
      if constexpr (kPairs)
        load_pair(from, in.fine[k][2 * r], in.fine[k][2 * r + 1]);
      else
        for (int c = 0; c < kColumns; ++c) in.fine[k][2 * r + c] = widen(from[c * tile.column[k]]);
    }
  for (int k = 0; k < M::coarse_in; ++k) in.coarse[k] = widen(*at(M::fine_in + k));
  f(in, out, A{1} / (kRows * kColumns));
  for (int k = 0; k < M::fine_out; ++k)
    for (int r = 0; r < kRows; ++r) {
      const int o = M::inputs + k;
      T* to = at(o) + r * tile.row[o];
      if constexpr (kPairs)
        store_pair(to, out.fine[k][2 * r], out.fine[k][2 * r + 1]);
      else
        for (int c = 0; c < kColumns; ++c) to[c * tile.column[o]] = narrow<T>(out.fine[k][2 * r + c]);
    }
  for (int k = 0; k < M::coarse_out; ++k) *at(M::inputs + M::fine_out + k) = narrow<T>(out.coarse[k]);
}

/// Blocks [0, length) in chunks of a constant number, so that no remainder is left to scalar code: the last chunk overlaps
/// the one before it and writes the same values again. octave_split of 16x256x56x56 bfloat16, rows of 28 blocks, on one
/// thread: 2.2 instead of 27 ms. Not along channels, whose usual numbers leave no remainder: octave_merge of 4x64x112x112
/// bfloat16 took 0.45 instead of 0.25 ms in chunks.
template <class M, Run kRun, int kRows, int kColumns, int kChunk, class T, int kOperands, class F>
FASTIQA_HD void chunks(const BlockTile<T, kOperands>& tile, T* const (&p)[kOperands], F f) {
  for (int64_t begin = 0; begin < tile.length; begin += kChunk) {
    const int64_t first = std::min(begin, tile.length - kChunk);
#pragma GCC ivdep
    for (int i = 0; i < kChunk; ++i) one_block<M, kRun, kRows, kColumns>(tile, p, first + i, f);
  }
}

/// One run, from and to p.
template <class M, Run kRun, int kRows, int kColumns, class T, int kOperands, class F>
FASTIQA_HD void run_blocks(const BlockTile<T, kOperands>& tile, T* const (&p)[kOperands], F f) {
  if (kRun == Run::columns && tile.length >= 16)
    chunks<M, kRun, kRows, kColumns, 16>(tile, p, f);
  else if (kRun == Run::columns && tile.length >= 4)
    chunks<M, kRun, kRows, kColumns, 4>(tile, p, f);
  else
#pragma GCC ivdep
    for (int64_t i = 0; i < tile.length; ++i) one_block<M, kRun, kRows, kColumns>(tile, p, i, f);
  if (tile.odd_length) one_block<M, kRun, kRows, 1>(tile, p, tile.length, f);
}

/// Run m. A streamed one is first made as dense pixels or rows, which often are dense in the map as well.
template <class M, Run kRun, int kRows, int kColumns, class T, int kOperands, class F>
FASTIQA_HD void run_blocks(const BlockTile<T, kOperands>& tile, const BlockTile<T, kOperands>& dense, int64_t m,
                           F f) {
  T* p[kOperands];
  for (int o = 0; o < kOperands; ++o) p[o] = tile.data[o] + m * tile.middle[o];
  if (kRun == Run::strided || !kStreamable<M, T> || !tile.streamed)
    return run_blocks<M, kRun, kRows, kColumns>(tile, p, f);
  alignas(kLine) T staged[M::fine_out > 0 ? M::fine_out : 1][kStaged];
  T* to[kOperands];
  for (int o = 0; o < kOperands; ++o) to[o] = M::fine(o) && o >= M::inputs ? staged[o - M::inputs] : p[o];
  run_blocks<M, kRun, kRows, kColumns>(dense, to, f);
  for (int o = M::inputs; o < M::inputs + M::fine_out; ++o) {
    const int64_t row = dense.row[o], pixels = kRun == Run::channels ? kColumns : 1;
    const int64_t columns = tile.column[o] == dense.column[o] || pixels == 1 ? 1 : kColumns;
    const int64_t length = kRun == Run::channels ? pixels * dense.column[o] : row;
    if (kRows == 2 && columns == 1 && tile.row[o] == row && length == row) {
      stream(p[o], to[o], 2 * row);
      continue;
    }
    for (int r = 0; r < kRows; ++r)
      for (int64_t c = 0; c < columns; ++c)
        stream(p[o] + r * tile.row[o] + c * tile.column[o], to[o] + r * row + c * dense.column[o], length / columns);
  }
}

// By value: the words that store_pair writes could otherwise, as far as the compiler knows, be the tile's own members.
template <class M, Run kRun, bool kByChannel, class T, int kOperands, class F>
FASTIQA_HD void tile_of_blocks(const BlockTile<T, kOperands> tile, F f) {
  BlockTile<T, kOperands> dense = tile;
  for (int o = M::inputs; o < M::inputs + M::fine_out; ++o) {
    dense.column[o] = kByChannel ? tile.length : 1;
    dense.row[o] = kByChannel ? 2 * tile.length : 2 * tile.length + tile.odd_length;
  }
  if constexpr (!kByChannel) {
    for (int64_t m = 0; m < tile.count; ++m) run_blocks<M, kRun, 2, 2>(tile, dense, m, f);
    if (tile.tail) run_blocks<M, kRun, 1, 2>(tile, dense, tile.count, f);
  } else if (tile.last_row) {
    for (int64_t m = 0; m < tile.count; ++m) run_blocks<M, kRun, 1, 2>(tile, dense, m, f);
    if (tile.tail) run_blocks<M, kRun, 1, 1>(tile, dense, tile.count, f);
  } else {
    for (int64_t m = 0; m < tile.count; ++m) run_blocks<M, kRun, 2, 2>(tile, dense, m, f);
    if (tile.tail) run_blocks<M, kRun, 2, 1>(tile, dense, tile.count, f);
  }
}

template <class M, class T, int kOperands, class F>
FASTIQA_CLONES void columns_tile(const BlockTile<T, kOperands>& tile, F f) {
  tile_of_blocks<M, Run::columns, false>(tile, f);
}

template <class M, class T, int kOperands, class F>
FASTIQA_CLONES void channels_tile(const BlockTile<T, kOperands>& tile, F f) {
  tile_of_blocks<M, Run::channels, true>(tile, f);
}

template <class M, class T, size_t kViews, class F>
void blocks(const std::array<View, kViews>& views, F f, const Tensor&) {
  constexpr int kOperands = M::operands;
  const auto nest = make_block_nest<M>(views);
  const auto& size = nest.size;
  const int64_t grain = std::max<int64_t>(1, kGrain / (4 * size[0]));
  const int64_t run = nest.by_channel ? 2 * size[0] : 2 * nest.width;  // elements that are written together
  const bool streamed = kStreamable<M, T> && nest.unit && (nest.by_channel ? 2 : 1) * run <= kStaged &&
                        streams(4 * nest.blocks() * M::fine_out * sizeof(T), run * sizeof(T));
  torch::stable::parallel_for(0, nest.blocks() / size[0], grain, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t m = begin % size[1], i2 = begin / size[1] % size[2], i3 = begin / size[1] / size[2];
      const int64_t runs = std::min(size[1] - m, end - begin);
      const int64_t complete = (nest.by_channel ? nest.width : nest.height) / 2;
      BlockTile<T, kOperands> tile;
      for (int o = 0; o < kOperands; ++o) {
        const auto& stride = nest.stride[o];
        tile.data[o] = static_cast<T*>(views[o].data) + m * stride[1] + i2 * stride[2] + i3 * stride[3];
        tile.inner[o] = stride[0];
        tile.middle[o] = stride[1];
        tile.row[o] = nest.row[o];
        tile.column[o] = nest.column[o];
      }
      tile.length = nest.by_channel ? size[0] : nest.width / 2;
      tile.odd_length = !nest.by_channel && nest.width % 2 != 0;
      tile.count = std::min(runs, std::max<int64_t>(0, complete - m));
      tile.tail = tile.count < runs;
      tile.last_row = nest.by_channel && 2 * i2 + 1 == nest.height;
      tile.streamed = streamed;
      if (nest.unit)
        nest.by_channel ? channels_tile<M>(tile, f) : columns_tile<M>(tile, f);
      else if (nest.by_channel)
        tile_of_blocks<M, Run::strided, true>(tile, f);
      else
        tile_of_blocks<M, Run::strided, false>(tile, f);
      begin += runs;
    }
    if (streamed) end_stream();
  });
}

}  // namespace fastiqa
