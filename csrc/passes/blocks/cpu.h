// The pass over 2x2 blocks (blocks.h) on the CPU: vector code where columns or channels lie side by side, a scalar loop
// for all other strides. Work is split by rows of blocks, so a batch of one fills every thread.
#pragma once

#include "passes/blocks/runs_cpu.h"

namespace fastiqa {

/// Run m, its fine results where `to` has them: in the maps, or, streamed, first as dense pixels or rows, which often are
/// dense in the map as well. One call for both: a second took GCC as long again, 40 of octave_split.cpp's 108 s.
template <class M, Run kRun, int kRows, int kColumns, class T, int kOperands, class F>
FASTIQA_HD void run_blocks(const BlockTile<T, kOperands>& tile, const BlockTile<T, kOperands>& to, int64_t m, F f) {
  constexpr bool kStreams = kRun != Run::strided && M::fine_out > 0;
  alignas(kLine) T staged[M::fine_out > 0 ? M::fine_out : 1][kStreams ? kStaged : 1];
  T *p[kOperands], *q[kOperands];
  for (int o = 0; o < kOperands; ++o) {
    p[o] = tile.data[o] + m * tile.middle[o];
    q[o] = kStreams && tile.streamed && M::fine(o) && o >= M::inputs ? staged[o - M::inputs] : p[o];
  }
  run_blocks<M, kRun, kRows, kColumns>(to, q, f);
  if (!kStreams || !tile.streamed) return;
  for (int o = M::inputs; o < M::inputs + M::fine_out; ++o) {
    const int64_t row = to.row[o], pixels = kRun == Run::channels ? kColumns : 1;
    const int64_t columns = tile.column[o] == to.column[o] || pixels == 1 ? 1 : kColumns;
    const int64_t length = kRun == Run::channels ? pixels * to.column[o] : row;
    if (kRows == 2 && columns == 1 && tile.row[o] == row && length == row) {
      stream(p[o], q[o], 2 * row);
      continue;
    }
    for (int r = 0; r < kRows; ++r)
      for (int64_t c = 0; c < columns; ++c)
        stream(p[o] + r * tile.row[o] + c * tile.column[o], q[o] + r * row + c * to.column[o], length / columns);
  }
}

// By value: the words that store_pair writes could otherwise, as far as the compiler knows, be the tile's own members.
template <class M, Run kRun, bool kByChannel, class T, int kOperands, class F>
FASTIQA_HD void tile_of_blocks(const BlockTile<T, kOperands> tile, F f) {
  BlockTile<T, kOperands> to = tile;
  for (int o = M::inputs; tile.streamed && o < M::inputs + M::fine_out; ++o) {
    to.column[o] = kByChannel ? tile.length : 1;
    to.row[o] = kByChannel ? 2 * tile.length : 2 * tile.length + tile.odd_length;
  }
  if constexpr (!kByChannel) {
    for (int64_t m = 0; m < tile.count; ++m) run_blocks<M, kRun, 2, 2>(tile, to, m, f);
    if (tile.tail) run_blocks<M, kRun, 1, 2>(tile, to, tile.count, f);
  } else if (tile.last_row) {
    for (int64_t m = 0; m < tile.count; ++m) run_blocks<M, kRun, 1, 2>(tile, to, m, f);
    if (tile.tail) run_blocks<M, kRun, 1, 1>(tile, to, tile.count, f);
  } else {
    for (int64_t m = 0; m < tile.count; ++m) run_blocks<M, kRun, 2, 2>(tile, to, m, f);
    if (tile.tail) run_blocks<M, kRun, 2, 1>(tile, to, tile.count, f);
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
  constexpr int64_t kValues = 4 * (M::fine_in + M::fine_out) + M::coarse_in + M::coarse_out;  // a block
  const bool from_memory = nest.blocks() * kValues * int64_t{sizeof(T)} > kLastLevelBytes;
  const bool streamed = M::fine_out > 0 && nest.unit && (nest.by_channel ? 2 : 1) * run <= kStaged &&
                        streams(4 * nest.blocks() * M::fine_out * sizeof(T), run * sizeof(T));
  parallel_for(0, nest.blocks() / size[0], grain, [&](int64_t begin, int64_t end) {
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
      tile.from_memory = from_memory;
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
