// The loop nest of an element-wise pass: operands of equal sizes, each with strides of its own, folded into as few
// dimensions as memory allows. Contiguous NCHW maps become one run a sample, channels-last maps one run a pixel (or one
// run in all), slices and transposes keep what they must; so one kernel serves every layout.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "core/tensor.h"

namespace fastiqa {

template <int kOperands>
struct Nest {
  int64_t size[kMaxRank];                // dimension 0 is innermost; unused dimensions have size 1
  int64_t stride[kOperands][kMaxRank];  // in elements; 0 where an operand is expanded

  int64_t elements() const { return size[0] * size[1] * size[2] * size[3]; }

  /// Whether every operand's innermost elements are neighbours in memory.
  bool unit_stride() const {
    return size[0] == 1 || std::all_of(stride, stride + kOperands, [](const auto& s) { return s[0] == 1; });
  }
};

/// Folds four dimensions. `strides[o][d]` is operand o's stride along dimension d; the last operand, an output, decides
/// the order in which memory is walked.
template <int kOperands>
Nest<kOperands> make_nest(const int64_t* sizes, const std::array<const int64_t*, kOperands>& strides) {
  std::array<int, kMaxRank> order{};
  int rank = 0;
  for (int d = kMaxRank - 1; d >= 0; --d)
    if (sizes[d] != 1) order[rank++] = d;
  const int64_t* walk = strides[kOperands - 1];
  std::stable_sort(order.begin(), order.begin() + rank, [&](int x, int y) { return walk[x] < walk[y]; });

  Nest<kOperands> nest;
  std::fill_n(nest.size, kMaxRank, int64_t{1});
  for (auto& stride : nest.stride) std::fill_n(stride, kMaxRank, int64_t{0});
  int folded = -1;
  for (int k = 0; k < rank; ++k) {
    const int d = order[k];
    bool joins = folded >= 0;
    for (int o = 0; joins && o < kOperands; ++o)
      joins = strides[o][d] == nest.stride[o][folded] * nest.size[folded];
    if (joins) {
      nest.size[folded] *= sizes[d];
      continue;
    }
    ++folded;
    nest.size[folded] = sizes[d];
    for (int o = 0; o < kOperands; ++o) nest.stride[o][folded] = strides[o][d];
  }
  return nest;
}

/// The folded nest of several views, which must have equal sizes.
template <size_t kOperands>
Nest<kOperands> make_nest(const std::array<View, kOperands>& views) {
  std::array<const int64_t*, kOperands> strides;
  for (size_t o = 0; o < kOperands; ++o) {
    FASTIQA_CHECK(views[o].sizes == views[0].sizes, "fastiqa: operands of an element-wise pass differ in size");
    strides[o] = views[o].strides.data();
  }
  return make_nest<kOperands>(views[0].sizes.data(), strides);
}

/// `rows` runs of `length` elements: one rectangle of the nest.
template <class T, int kOperands>
struct Rectangle {
  std::array<T*, kOperands> data;
  std::array<int64_t, kOperands> row_stride;
  std::array<int64_t, kOperands> stride;
  int64_t rows;
  int64_t length;
};

}  // namespace fastiqa
