// What a GPU kernel of channelwise_cuda.h is told of its operands.
#pragma once

#include "passes/channelwise/walk.h"

namespace fastiqa {

template <class T, int kMaps, class V, int kValues, class S, int kSums>
struct ChannelMaps {
  T* data[kMaps];
  ChannelWalk<kMaps> walk;
  const V* value[kValues];
  int64_t value_stride[kValues][2];  // along n and c
  S* sum[at_least_one(kSums)];
  int64_t sum_stride[at_least_one(kSums)][2];
};

/// Whether maps and, by pixels, values can be moved in packs; values beyond 16 bytes in several.
template <int kPack, class T, int kMaps, class V, int kValues, class S, int kSums>
bool packable(const ChannelMaps<T, kMaps, V, kValues, S, kSums>& maps) {
  const auto& walk = maps.walk;
  const auto aligned = [](const auto* data, int64_t bytes) { return reinterpret_cast<uintptr_t>(data) % bytes == 0; };
  if (!walk.unit_stride() || (walk.by_pixels ? walk.c : walk.w) % kPack != 0) return false;
  for (int o = 0; o < kMaps; ++o) {
    if (!aligned(maps.data[o], 16)) return false;
    for (int d = 0; d < 4; ++d)
      if (d != (walk.by_pixels ? 1 : 3) && walk.stride[o][d] % kPack != 0) return false;
  }
  for (int k = 0; walk.by_pixels && k < kValues; ++k) {
    const auto& stride = maps.value_stride[k];
    if (stride[1] != 1 || stride[0] % kPack != 0 || !aligned(maps.value[k], 16)) return false;
  }
  return true;
}

template <int kInputs, class T, size_t kMaps, class V, size_t kValues, class S, size_t kSums>
auto channel_maps(const Views<T, kMaps>& views, const Views<V, kValues>& values, const Views<S, kSums>& sums) {
  ChannelMaps<T, int{kMaps}, V, int{kValues}, S, int{kSums}> maps{};
  for (size_t o = 0; o < kMaps; ++o) maps.data[o] = static_cast<T*>(views.view[o].data);
  maps.walk = make_channel_walk(views.view, kInputs);
  for (size_t k = 0; k < kValues; ++k) {
    maps.value[k] = static_cast<const V*>(values.view[k].data);
    std::copy_n(values.view[k].strides.begin(), 2, maps.value_stride[k]);
  }
  for (size_t k = 0; k < kSums; ++k) {
    maps.sum[k] = static_cast<S*>(sums.view[k].data);
    std::copy_n(sums.view[k].strides.begin(), 2, maps.sum_stride[k]);
  }
  return maps;
}

}  // namespace fastiqa
