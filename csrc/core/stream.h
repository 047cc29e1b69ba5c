// Maps that vector loops read and write: fetched ahead of them, and past the caches where they are larger.
//
// Four and more maps walked through at once outdo the processor's own prefetching. Loops therefore ask, kFetched elements
// at a time, for what they come to kAheadBytes later: scale_residual_relu's adjoint of 1x64x56x56 in float32, five maps,
// took 0.088 instead of 0.138 ms on two threads of a Xeon with AVX-512, and of 8x64x112x112 bfloat16, from memory, 2.4
// instead of 3.0; 512, 2048 or 4096 bytes were no better.
//
// An ordinary store first reads the line that it writes, which for a result larger than the cache is a third of an
// addition's traffic. Vector loops therefore write blocks of such a result into the first-level cache, from where whole
// lines are streamed to memory: a + b of 100 MB in float32 takes 5.7 instead of 7.2 ms on two threads of an EPYC with
// AVX-512. Lines in four pieces of 16 bytes win little (6.6 ms), so that processors without AVX store as ever.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/dtype.h"

#if defined(FASTIQA_X86)
#include <immintrin.h>
#endif

namespace fastiqa {

constexpr int64_t kLastLevelBytes = int64_t{32} << 20;
constexpr int64_t kLine = 64;
constexpr int64_t kBlock = 512;  // elements of a result that are written into the first-level cache at a time
constexpr int64_t kLeastRun = 6 * kLine;  // bytes: the ends of shorter runs are too many broken lines

using StreamLines = void (*)(char* to, const char* from, int64_t bytes);

#if defined(FASTIQA_X86)
__attribute__((target("arch=x86-64-v4"))) inline void stream_lines_x86_64_v4(char* to, const char* from,
                                                                             int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += kLine)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
}

__attribute__((target("arch=x86-64-v3"))) inline void stream_lines_x86_64_v3(char* to, const char* from,
                                                                             int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += kLine / 2) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i), half);
  }
}

inline const StreamLines kStreamLines = __builtin_cpu_supports("avx512f") ? stream_lines_x86_64_v4
                                        : __builtin_cpu_supports("avx2")  ? stream_lines_x86_64_v3
                                                                          : nullptr;

/// Before another thread may read what this one streamed.
inline void end_stream() { _mm_sfence(); }
#else
inline const StreamLines kStreamLines = nullptr;
inline void end_stream() {}
#endif

constexpr int64_t kFetched = 64;
constexpr int64_t kAheadBytes = 1024;

/// Asks for what a loop that is about to move kFetched elements comes to later. Past the end of a map it asks in vain.
template <class T>
inline __attribute__((always_inline)) void fetch_ahead(const T* at) {
  for (int64_t byte = 0; byte < kFetched * static_cast<int64_t>(sizeof(T)); byte += kLine)
    __builtin_prefetch(reinterpret_cast<const char*>(at) + kAheadBytes + byte);
}

/// Whether a result of so many bytes is streamed, in runs of `run` bytes.
inline bool streams(int64_t bytes, int64_t run) {
  return kStreamLines != nullptr && bytes > kLastLevelBytes && run >= kLeastRun;
}

/// Writes `count` elements: whole cache lines past the caches, the rest by ordinary stores.
template <class T>
void stream(T* to, const T* from, int64_t count) {
  const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
  const int64_t head = std::min<int64_t>(bytes, -reinterpret_cast<intptr_t>(to) & (kLine - 1));
  const int64_t lines = (bytes - head) / kLine * kLine;
  auto* destination = reinterpret_cast<char*>(to);
  const auto* source = reinterpret_cast<const char*>(from);
  if (head > 0) std::memcpy(destination, source, head);
  kStreamLines(destination + head, source + head, lines);
  if (head + lines < bytes) std::memcpy(destination + head + lines, source + head + lines, bytes - head - lines);
}

}  // namespace fastiqa
