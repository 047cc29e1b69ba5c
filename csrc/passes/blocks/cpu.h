// The pass over 2x2 blocks (pass.h) on the CPU: vector code where columns or channels lie side by side, a scalar loop
// for all other strides. Work is split by rows of blocks, so a batch of one fills every thread.
#pragma once

#include <cstring>
#include <type_traits>

#include "core/simd.h"
#include "core/stream.h"
#include "passes/blocks/api.h"

namespace fastiqa {

// ---- runs of blocks within a tile ----

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
  bool from_memory;  // inputs lie beyond the caches
  bool streamed;     // fine results go past the caches, a run of up to kStaged elements at a time
};

constexpr int64_t kStaged = 4096;
constexpr int64_t kAhead = 4096;  // bytes

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

/// Calls move(map, first pixel of row r, r) for each row of block i in the fine maps [kFirst, kFirst + kCount).
template <class M, Run kRun, int kRows, int kFirst, int kCount, class T, int kOperands, class Move>
FASTIQA_HD void fine_rows(const BlockTile<T, kOperands>& tile, T* const (&p)[kOperands], int64_t i, Move move) {
  for (int k = 0; k < kCount; ++k) {
    const int o = kFirst + k;
    T* const at = p[o] + (kRun == Run::strided ? tile.inner[o] : kRun == Run::columns ? 2 : 1) * i;
    for (int r = 0; r < kRows; ++r) move(k, at + r * tile.row[o], r, tile.column[o]);
  }
}

/// f on block i of a run, of kRows by kColumns pixels. Its values in coarse maps are in `in` already and stay in `out`.
template <class M, Run kRun, int kRows, int kColumns, class T, int kOperands, class In, class Out, class F>
FASTIQA_HD void fine_block(const BlockTile<T, kOperands>& tile, T* const (&p)[kOperands], int64_t i, In& in, Out& out,
                           F f) {
  constexpr bool kPairs = kRun == Run::columns && kColumns == 2;
  const auto load = [&](int k, const T* from, int r, int64_t column) __attribute__((always_inline)) {
    if constexpr (kPairs)
      load_pair(from, in.fine[k][2 * r], in.fine[k][2 * r + 1]);
    else
      for (int c = 0; c < kColumns; ++c) in.fine[k][2 * r + c] = widen(from[c * column]);
  };
  const auto store = [&](int k, T* to, int r, int64_t column) __attribute__((always_inline)) {
    if constexpr (kPairs)
      store_pair(to, out.fine[k][2 * r], out.fine[k][2 * r + 1]);
    else
      for (int c = 0; c < kColumns; ++c) to[c * column] = narrow<T>(out.fine[k][2 * r + c]);
  };
  fine_rows<M, kRun, kRows, 0, M::fine_in>(tile, p, i, load);
  f(in, out, accumulator_t<T>{1} / (kRows * kColumns));
  fine_rows<M, kRun, kRows, M::inputs, M::fine_out>(tile, p, i, store);
}

/// Block i of a run.
template <class M, Run kRun, int kRows, int kColumns, class T, int kOperands, class F>
FASTIQA_HD void one_block(const BlockTile<T, kOperands>& tile, T* const (&p)[kOperands], int64_t i, F f) {
  using A = accumulator_t<T>;
  const auto coarse = [&](int o) -> T& { return p[o][kRun == Run::strided ? i * tile.inner[o] : i]; };
  Block<A, M::fine_in, M::coarse_in> in{};
  Block<A, M::fine_out, M::coarse_out> out;
  for (int k = 0; k < M::coarse_in; ++k) in.coarse[k] = widen(coarse(M::fine_in + k));
  fine_block<M, kRun, kRows, kColumns>(tile, p, i, in, out, f);
  for (int k = 0; k < M::coarse_out; ++k) coarse(M::inputs + M::fine_out + k) = narrow<T>(out.coarse[k]);
}

/// float16 not, whose conversions are so long that GCC would leave two of a functor's calls scalar.
template <class T, Run kRun>
constexpr bool kInPairs = kRun == Run::channels && std::is_same_v<T, bfloat16>;

/// Blocks i and i + 1 of a run along channels, one word of each map.
template <class M, int kRows, int kColumns, class T, int kOperands, class F>
FASTIQA_HD void two_blocks(const BlockTile<T, kOperands>& tile, T* const (&p)[kOperands], int64_t i, F f) {
  using A = accumulator_t<T>;
  Block<A, M::fine_in, M::coarse_in> in[2] = {};
  Block<A, M::fine_out, M::coarse_out> out[2];
  const auto load = [&](int k, const T* from, int r, int64_t column) __attribute__((always_inline)) {
    for (int c = 0; c < kColumns; ++c)
      load_pair(from + c * column, in[0].fine[k][2 * r + c], in[1].fine[k][2 * r + c]);
  };
  const auto store = [&](int k, T* to, int r, int64_t column) __attribute__((always_inline)) {
    for (int c = 0; c < kColumns; ++c)
      store_pair(to + c * column, out[0].fine[k][2 * r + c], out[1].fine[k][2 * r + c]);
  };
  for (int k = 0; k < M::coarse_in; ++k) load_pair(p[M::fine_in + k] + i, in[0].coarse[k], in[1].coarse[k]);
  fine_rows<M, Run::channels, kRows, 0, M::fine_in>(tile, p, i, load);
  for (int j = 0; j < 2; ++j) f(in[j], out[j], A{1} / (kRows * kColumns));
  fine_rows<M, Run::channels, kRows, M::inputs, M::fine_out>(tile, p, i, store);
  for (int k = 0; k < M::coarse_out; ++k)
    store_pair(p[M::inputs + M::fine_out + k] + i, out[0].coarse[k], out[1].coarse[k]);
}

/// A value of a coarse map between memory and vector code, as wide as an accumulator: beside bare 16-bit values GCC
/// takes half a vector for all. octave_split of 1x256x56x56 bfloat16 on one thread: 84 instead of 149 us.
template <class T>
struct Wide {
  accumulator_t<T> value;

  FASTIQA_HD static Wide load(T x) { return {widen(x)}; }
  FASTIQA_HD static Wide of(accumulator_t<T> x) { return {x}; }
  FASTIQA_HD accumulator_t<T> get() const { return value; }
  FASTIQA_HD T narrowed() const { return narrow<T>(value); }
};

/// As bits, because GCC vectorises their rounding in the loop over blocks alone.
template <>
struct Wide<bfloat16> {
  uint32_t bits;

  FASTIQA_HD static Wide load(bfloat16 x) { return {x.bits}; }
  FASTIQA_HD static Wide of(float x) { return {narrow<bfloat16>(x).bits}; }
  FASTIQA_HD float get() const { return widen(bfloat16{static_cast<uint16_t>(bits)}); }
  FASTIQA_HD bfloat16 narrowed() const { return {static_cast<uint16_t>(bits)}; }
};

/// Blocks [first, first + kChunk) of a run along columns.
template <class M, int kRows, int kColumns, int kChunk, class T, int kOperands, class F>
FASTIQA_HD void columns_chunk(const BlockTile<T, kOperands>& tile, T* const (&p)[kOperands], int64_t first, F f) {
  using A = accumulator_t<T>;
  Wide<T> from[M::coarse_in > 0 ? M::coarse_in : 1][kChunk], to[M::coarse_out > 0 ? M::coarse_out : 1][kChunk];
  for (int k = 0; k < M::coarse_in; ++k)
    for (int i = 0; i < kChunk; ++i) from[k][i] = Wide<T>::load(p[M::fine_in + k][first + i]);
#pragma GCC ivdep
#pragma GCC unroll 1
  for (int i = 0; i < kChunk; ++i) {
    Block<A, M::fine_in, M::coarse_in> in{};
    Block<A, M::fine_out, M::coarse_out> out;
    for (int k = 0; k < M::coarse_in; ++k) in.coarse[k] = from[k][i].get();
    fine_block<M, Run::columns, kRows, kColumns>(tile, p, first + i, in, out, f);
    for (int k = 0; k < M::coarse_out; ++k) to[k][i] = Wide<T>::of(out.coarse[k]);
  }
  for (int k = 0; k < M::coarse_out; ++k)
    for (int i = 0; i < kChunk; ++i) p[M::inputs + M::fine_out + k][first + i] = to[k][i].narrowed();
}

/// Fetches what blocks some way ahead of `count` ones from block i on will read: processors foresee one row of a map,
/// not two at a time. 8x256x112x112 channels-last on one thread: octave_merge in bfloat16 2.7 instead of 3.9 ms,
/// high_pass 2.7 instead of 4.0; with it streamed results pay in float32 too: octave_split NCHW 5.5 instead of 11 ms.
template <class M, Run kRun, int kRows, int kColumns, class T, int kOperands>
FASTIQA_HD void fetch_ahead(const BlockTile<T, kOperands>& tile, T* const (&p)[kOperands], int64_t i, int count) {
  fine_rows<M, kRun, kRows, 0, M::fine_in>(tile, p, i, [&](int, const T* from, int, int64_t column)
                                           __attribute__((always_inline)) {
    constexpr int kElements = kLine / sizeof(T);
    if constexpr (kRun == Run::columns)
      for (int j = 0; j < kColumns * count; j += kElements) __builtin_prefetch(from + j + kAhead / sizeof(T));
    else
      for (int c = 0; c < kColumns; ++c)
        for (int j = 0; j < count; j += kElements) __builtin_prefetch(from + c * column + j + kAhead / sizeof(T));
  });
}

/// Blocks [0, length) in chunks of a constant number, so that no remainder is left to scalar code: the last overlaps
/// the one before it and writes the same values again. octave_split of 16x256x56x56 bfloat16, rows of 28 blocks, on one
/// thread: 2.2 instead of 27 ms; high_pass of 8x248x112x116 channels-last 3.2 instead of 6.7 ms.
///
/// `unroll 1`: GCC unrolls loops of 4 or 8 before it would make vectors of them, and leaves them scalar. octave_split of
/// 1x64x28x28 float32, rows of 14 blocks, on one thread: 23 instead of 370 us, its adjoint 28 instead of 370.
template <class M, Run kRun, int kRows, int kColumns, int kChunk, class T, int kOperands, class F>
FASTIQA_HD void chunks(const BlockTile<T, kOperands>& tile, T* const (&p)[kOperands], F f) {
  for (int64_t begin = 0; begin < tile.length; begin += kChunk) {
    const int64_t first = std::min(begin, tile.length - kChunk);
    if (tile.from_memory) fetch_ahead<M, kRun, kRows, kColumns>(tile, p, first, kChunk);
    if constexpr (kRun == Run::columns) {
      columns_chunk<M, kRows, kColumns, kChunk>(tile, p, first, f);
    } else if constexpr (kInPairs<T, kRun>) {
#pragma GCC ivdep
#pragma GCC unroll 1
      for (int i = 0; i < kChunk; i += 2) two_blocks<M, kRows, kColumns>(tile, p, first + i, f);
    } else {
#pragma GCC ivdep
#pragma GCC unroll 1
      for (int i = 0; i < kChunk; ++i) one_block<M, kRun, kRows, kColumns>(tile, p, first + i, f);
    }
  }
}

/// One run, from and to p.
template <class M, Run kRun, int kRows, int kColumns, class T, int kOperands, class F>
FASTIQA_HD void run_blocks(const BlockTile<T, kOperands>& tile, T* const (&p)[kOperands], F f) {
  constexpr int kChunk = kRun == Run::channels && sizeof(T) == 2 ? 32 : 16;
  if (kRun != Run::strided && tile.length >= kChunk)
    chunks<M, kRun, kRows, kColumns, kChunk>(tile, p, f);
  else if (kRun != Run::strided && tile.length >= kChunk / 4)
    chunks<M, kRun, kRows, kColumns, kChunk / 4>(tile, p, f);
  else
#pragma GCC ivdep
    for (int64_t i = 0; i < tile.length; ++i) one_block<M, kRun, kRows, kColumns>(tile, p, i, f);
  if (tile.odd_length) one_block<M, kRun, kRows, 1>(tile, p, tile.length, f);
}

// ---- tiles and the pass ----

/// Run m. Its fine results go where `to` says: into the maps, or, streamed, first into dense pixels or rows, which often
/// are dense in the map as well. One call serves both: a second took GCC as long again, 40 of octave_split.cpp's 108 s.
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

// The tile is passed by value: else the compiler must assume that the words which store_pair writes are its members.
template <class M, Run kRun, class T, int kOperands, class F>
FASTIQA_HD void tile_of_blocks(const BlockTile<T, kOperands> tile, F f) {
  constexpr bool kByChannel = kRun == Run::channels;
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
  tile_of_blocks<M, Run::columns>(tile, f);
}

template <class M, class T, int kOperands, class F>
FASTIQA_CLONES void channels_tile(const BlockTile<T, kOperands>& tile, F f) {
  tile_of_blocks<M, Run::channels>(tile, f);
}

/// Runs [first, end) of any strides, along columns and along channels.
template <class M, int kRows, int kColumns, class T, int kOperands, class F>
FASTIQA_STRIDED void strided_runs(const BlockTile<T, kOperands> tile, int64_t first, int64_t end, F f) {
  for (int64_t m = first; m < end; ++m) run_blocks<M, Run::strided, kRows, kColumns>(tile, tile, m, f);
}

template <class M, class T, int kOperands, class F>
void strided_tile(const BlockTile<T, kOperands>& tile, bool by_channel, F f) {
  const int64_t count = tile.count, end = count + tile.tail;
  tile.last_row ? strided_runs<M, 1, 2>(tile, 0, count, f) : strided_runs<M, 2, 2>(tile, 0, count, f);
  if (!by_channel)
    strided_runs<M, 1, 2>(tile, count, end, f);
  else
    tile.last_row ? strided_runs<M, 1, 1>(tile, count, end, f) : strided_runs<M, 2, 1>(tile, count, end, f);
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
      if (!nest.unit)
        strided_tile<M>(tile, nest.by_channel, f);
      else
        nest.by_channel ? channels_tile<M>(tile, f) : columns_tile<M>(tile, f);
      begin += runs;
    }
    if (streamed) end_stream();
  });
}

}  // namespace fastiqa
