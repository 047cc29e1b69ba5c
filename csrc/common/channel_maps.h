// What a GPU kernel of channelwise_cuda.h is told of its operands.
#pragma once

#include "channel_walk.h"

namespace fastiqa {

template <class T, int kMaps>
struct ChannelMaps {
  T* data[kMaps];
  ChannelWalk<kMaps> walk;
  const T* value;
  T* sum;
  int64_t value_stride[2], sum_stride[2];  // along n and c
};

/// Whether maps and, by pixels, values can be moved in packs.
template <int kPack, class T, int kMaps>
bool packable(const ChannelMaps<T, kMaps>& maps) {
  const auto& walk = maps.walk;
  const auto aligned = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % (kPack * sizeof(T)) == 0; };
  if (!walk.unit_stride() || (walk.by_pixels ? walk.c : walk.w) % kPack != 0) return false;
  for (int o = 0; o < kMaps; ++o) {
    if (!aligned(maps.data[o])) return false;
    for (int d = 0; d < 4; ++d)
      if (d != (walk.by_pixels ? 1 : 3) && walk.stride[o][d] % kPack != 0) return false;
  }
  return !walk.by_pixels || (maps.value_stride[1] == 1 && maps.value_stride[0] % kPack == 0 && aligned(maps.value));
}

template <class T, size_t kMaps>
ChannelMaps<T, static_cast<int>(kMaps)> channel_maps(const std::array<View, kMaps>& views, const View& value,
                                                       const View& sum, int inputs) {
  ChannelMaps<T, static_cast<int>(kMaps)> maps{};
  for (size_t o = 0; o < kMaps; ++o) maps.data[o] = static_cast<T*>(views[o].data);
  maps.walk = make_channel_walk(views, inputs);
  maps.value = static_cast<const T*>(value.data);
  maps.sum = static_cast<T*>(sum.data);
  std::copy_n(value.strides.begin(), 2, maps.value_stride);
  std::copy_n(sum.strides.begin(), 2, maps.sum_stride);
  return maps;
}

}  // namespace fastiqa
