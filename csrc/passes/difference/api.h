// The operands of the difference pass (pass.h).
#pragma once

#include "core/tensor.h"

namespace fastiqa {

/// A weight (outputs, 2C, size, size), or one for each sample.
struct WeightView {
  void* data;
  int64_t outputs, channels, size;  // channels: C
  int64_t sample, output, side, channel, row, column;  // strides; sample 0 where all share one

  FASTIQA_HD int64_t taps() const { return size * size; }
  FASTIQA_HD int64_t rows() const { return outputs * taps(); }
  int64_t samples(int64_t n) const { return sample == 0 ? 1 : n; }

  FASTIQA_HD int64_t at(int64_t n, int64_t r, int64_t s, int64_t c) const {
    const int64_t t = r % (size * size);
    return n * sample + r / (size * size) * output + s * side + c * channel +
           t / size * row + t % size * column;
  }
};

inline WeightView weight_view_of(const Tensor& weight, void* data) {
  const int64_t rank = weight.dim();
  FASTIQA_CHECK(rank == 4 || rank == 5, "fastiqa: a weight of four or five dimensions");
  const auto size = [&](int64_t d) { return weight.sizes()[d + rank - 4]; };
  const auto stride = [&](int64_t d) { return weight.strides()[d + rank - 4]; };
  const int64_t channels = size(1) / 2, sample = rank == 5 ? weight.strides()[0] : 0;
  return {data, size(0), channels, size(3), sample, stride(0), channels * stride(1), stride(1), stride(2), stride(3)};
}

/// An input.
inline WeightView weight_view(const Tensor& weight) { return weight_view_of(weight, data_to_read<void>(weight)); }

/// An output.
inline WeightView weight_written(const Tensor& weight) { return weight_view_of(weight, data_of<void>(weight)); }

/// Three maps of one size: ref, a, b, or their gradients.
template <class T>
struct Triple {
  T* data[3];
  int64_t n, c, h, w;
  int64_t stride[3][4];
  bool flat;      // the pixels of a channel are neighbours, in all three
  bool channels;  // the channels of a pixel are

  FASTIQA_HD int64_t pixels() const { return h * w; }
  FASTIQA_HD T* at(int map, int64_t sample, int64_t channel, int64_t pixel) const {
    const auto& s = stride[map];
    T* const at = data[map] + sample * s[0] + channel * s[1];
    if (flat) return at + pixel;
    const uint32_t p = static_cast<uint32_t>(pixel), row = p / static_cast<uint32_t>(w);  // cheaper than 64-bit division
    return at + row * s[2] + (p - row * static_cast<uint32_t>(w)) * s[3];
  }
};

template <class T>
Triple<T> triple(const std::array<View, 3>& views) {
  const auto& size = views[0].sizes;
  FASTIQA_CHECK(size[2] * size[3] <= INT32_MAX, "fastiqa: a map of more than 2^31 - 1 pixels");
  Triple<T> maps{{}, size[0], size[1], size[2], size[3], {}, true, true};
  for (int k = 0; k < 3; ++k) {
    FASTIQA_CHECK(views[k].sizes == size, "fastiqa: maps differ in size");
    const auto& stride = views[k].strides;
    maps.data[k] = static_cast<T*>(views[k].data);
    std::copy(stride.begin(), stride.end(), maps.stride[k]);
    maps.flat &= (size[3] == 1 || stride[3] == 1) && (size[2] == 1 || stride[2] == size[3]);
    maps.channels &= size[1] == 1 || stride[1] == 1;
  }
  // Where both hold, one dimension is short or single: vectors run along the other.
  if (maps.flat && maps.channels) (size[1] > size[2] * size[3] ? maps.flat : maps.channels) = false;
  return maps;
}

template <class T>
Triple<T> triple(const Tensor& ref, const Tensor& a, const Tensor& b) {
  return triple<T>(std::array{view(ref), view(a), view(b)});
}

/// Three maps that lie in one, one after the other along the first dimension.
template <class T>
Triple<T> thirds(View all) {
  all.sizes[0] /= 3;
  std::array views{all, all, all};
  for (int k = 0; k < 3; ++k) views[k].data = static_cast<T*>(all.data) + k * all.sizes[0] * all.strides[0];
  return triple<T>(views);
}

inline int64_t up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

}  // namespace fastiqa
