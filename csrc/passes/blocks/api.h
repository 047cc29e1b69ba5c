// The operands of a pass over the 2x2 blocks of maps (pass.h), and its walk over them.
#pragma once

#include "core/tensor.h"

namespace fastiqa {

/// How many operands of each kind a pass has; they come in this order.
template <int kFineIn, int kCoarseIn, int kFineOut, int kCoarseOut>
struct Maps {
  static constexpr int fine_in = kFineIn, coarse_in = kCoarseIn, fine_out = kFineOut, coarse_out = kCoarseOut;
  static constexpr int inputs = fine_in + coarse_in;
  static constexpr int operands = inputs + fine_out + coarse_out;

  FASTIQA_HD static constexpr bool fine(int o) { return o < fine_in || (o >= inputs && o < inputs + fine_out); }
};

template <class A, int kFine, int kCoarse>
struct Block {
  A fine[kFine > 0 ? kFine : 1][4];
  A coarse[kCoarse > 0 ? kCoarse : 1];
};

/// The walk over the blocks. Dimension 0 is innermost: along a row of blocks (then rows, channels, samples), or, where
/// channels lie side by side, along the channels (then columns, rows, samples).
template <int kOperands>
struct BlockNest {
  bool by_channel;                      // dimension 0 is the channels
  bool unit;                            // and its elements are neighbours, in every operand
  int64_t height, width;                // of the fine maps
  int64_t size[kMaxRank];               // in blocks
  int64_t stride[kOperands][kMaxRank];  // from block to block, in elements
  int64_t row[kOperands];               // from a block's first row to its second; 0 in coarse maps
  int64_t column[kOperands];

  int64_t blocks() const { return size[0] * size[1] * size[2] * size[3]; }
};

template <class M, size_t kOperands>
BlockNest<M::operands> make_block_nest(const std::array<View, kOperands>& views) {
  static_assert(kOperands == M::operands && (M::fine_in > 0 || M::fine_out > 0));
  constexpr int kFirstFine = M::fine_in > 0 ? 0 : M::inputs;
  const auto& fine = views[kFirstFine].sizes;
  const std::array<int64_t, kMaxRank> coarse{fine[0], fine[1], (fine[2] + 1) / 2, (fine[3] + 1) / 2};

  // Side by side: neighbours in memory, or no second one.
  const auto side_by_side = [&](int d) {
    return std::all_of(views.begin(), views.end(), [&](const View& v) { return v.sizes[d] == 1 || v.strides[d] == 1; });
  };
  const auto& out = views[M::inputs].strides;
  const bool columns = side_by_side(3), channels = side_by_side(1);

  BlockNest<M::operands> nest;
  nest.unit = columns || channels;
  nest.by_channel = columns && channels ? fine[1] > fine[3] : nest.unit ? channels : out[1] < out[3];
  nest.height = fine[2];
  nest.width = fine[3];
  const std::array<int, kMaxRank> order = nest.by_channel ? std::array{1, 3, 2, 0} : std::array{3, 2, 1, 0};
  for (int k = 0; k < kMaxRank; ++k) nest.size[k] = coarse[order[k]];
  for (int o = 0; o < M::operands; ++o) {
    FASTIQA_CHECK(views[o].sizes == (M::fine(o) ? fine : coarse), "fastiqa: maps of a pass over blocks differ in size");
    const auto& stride = views[o].strides;
    const int64_t pixels = M::fine(o) ? 2 : 1;
    for (int k = 0; k < kMaxRank; ++k) nest.stride[o][k] = stride[order[k]] * (order[k] >= 2 ? pixels : 1);
    nest.row[o] = M::fine(o) ? stride[2] : 0;
    nest.column[o] = M::fine(o) ? stride[3] : 0;
  }
  return nest;
}

}  // namespace fastiqa
