// The operands of a channel-wise pass (pass.h), and its walk through feature maps: which dimension is innermost, and
// which dimensions fold.
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

// ---- walk ----

template <int kMaps>
struct ChannelWalk {
  int64_t n, c, h, w;          // h = 1 and w = all pixels if in every map each row follows the one before it
  int64_t stride[kMaps][4];    // along n, c, h and w, in elements
  bool by_pixels;              // the channels of a pixel are innermost, else the pixels of a channel

  int64_t inner(int map) const { return stride[map][by_pixels ? 1 : 3]; }

  /// Whether the innermost elements of every map are neighbours in memory.
  bool unit_stride() const {
    if ((by_pixels ? c : w) == 1) return true;
    for (int o = 0; o < kMaps; ++o)
      if (inner(o) != 1) return false;
    return true;
  }
};

/// Sizes and strides in memory order. The first output, or else the last input, decides the innermost dimension.
template <size_t kMaps>
ChannelWalk<kMaps> make_channel_walk(const std::array<View, kMaps>& maps, size_t inputs) {
  const auto& size = maps[0].sizes;
  bool folds = true;
  for (const View& map : maps) {
    FASTIQA_CHECK(map.sizes == size, "fastiqa: maps of a channel-wise pass differ in size");
    folds = folds && (size[2] == 1 || size[3] == 1 || map.strides[2] == size[3] * map.strides[3]);
  }
  const int along = size[3] == 1 ? 2 : 3;  // where a column of pixels is folded, its stride is that of the rows
  ChannelWalk<kMaps> walk{size[0], size[1], folds ? 1 : size[2], folds ? size[2] * size[3] : size[3], {}, false};
  for (size_t o = 0; o < kMaps; ++o) {
    const auto& s = maps[o].strides;
    const int64_t strides[4] = {s[0], s[1], folds ? 0 : s[2], s[along]};
    std::copy_n(strides, 4, walk.stride[o]);
  }
  const auto& out = walk.stride[std::min(inputs, kMaps - 1)];
  walk.by_pixels = walk.c > 1 && (walk.h * walk.w == 1 || out[1] < out[3]);
  return walk;
}

}  // namespace fastiqa
