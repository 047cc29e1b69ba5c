// Vector accesses of a GPU thread.
#pragma once

#include "core/dtype.h"

namespace fastiqa {

constexpr int kThreads = 256;  // a block of every streaming kernel

/// Neighbouring elements of one operand: 16 bytes, 8 bytes, or a single element.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  static constexpr int kBytes = sizeof(T) * kCount;
  static_assert(kCount == 1 || kBytes == 8 || kBytes == 16);

  T element[kCount];

  __device__ static Pack load(const T* from) {
    if constexpr (kCount == 1)
      return {*from};
    else if constexpr (kBytes == 8)
      return std::bit_cast<Pack>(*reinterpret_cast<const uint2*>(from));
    else
      return std::bit_cast<Pack>(*reinterpret_cast<const uint4*>(from));
  }

  // In assembly, because nvcc 13.0 splits the plain store of 16 assembled bytes into four to eight narrow ones, and
  // __stwb becomes a store with an ordering that nobody needs.
  __device__ void store(T* to) const {
    if constexpr (kCount == 1) {
      *to = element[0];
    } else if constexpr (kBytes == 8) {
      const auto word = std::bit_cast<uint2>(*this);
#if defined(__CUDA_ARCH__)
      asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(word.x), "r"(word.y) : "memory");
#else
      *reinterpret_cast<uint2*>(to) = word;
#endif
    } else {
      const auto word = std::bit_cast<uint4>(*this);
#if defined(__CUDA_ARCH__)
      asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(word.x), "r"(word.y), "r"(word.z),
                   "r"(word.w)
                   : "memory");
#else
      *reinterpret_cast<uint4*>(to) = word;
#endif
    }
  }
};

}  // namespace fastiqa
