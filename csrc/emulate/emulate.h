// The CUDA sources on a CPU, for tests: g++ -include emulate/emulate.h compiles a .cu file against this header instead of
// the CUDA runtime and PyTorch.
//
// threads.h runs the threads of a block; the blocks of a grid run one after another. A warp's shuffles go through
// an array of lanes, __shared__ is static. So the address, undefined-behaviour and thread sanitizers see the kernel's own
// accesses and its own races. A kernel must not return before its block's last barrier: on a GPU that is undefined.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <tuple>
#include <vector>

#include "emulate/plain_tensor.h"
#include "emulate/threads.h"

#define FASTIQA_EMULATE

// ---- the language ----

#define __global__
#define __device__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __restrict__ __restrict

struct alignas(8) uint2 {
  unsigned x, y;
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

namespace fastiqa::emulate {

constexpr int kWarp = 32;

struct Block {
  explicit Block(int threads) : barrier(threads), lanes(threads) {
    for (int first = 0; first < threads; first += kWarp)
      warps.push_back(std::make_unique<Barrier>(std::min(kWarp, threads - first)));
  }
  Barrier barrier;
  std::vector<std::unique_ptr<Barrier>> warps;
  std::vector<uint64_t> lanes;
};

inline Block* block = nullptr;

}  // namespace fastiqa::emulate

inline void __syncthreads() { fastiqa::emulate::block->barrier.wait(); }

inline void __syncwarp(unsigned = 0xffffffffu) {
  fastiqa::emulate::block->warps[threadIdx.x / fastiqa::emulate::kWarp]->wait();
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  auto& lanes = fastiqa::emulate::block->lanes;
  std::memcpy(&lanes[threadIdx.x], &value, sizeof(T));
  __syncwarp();
  T other;
  std::memcpy(&other, &lanes[threadIdx.x ^ static_cast<unsigned>(mask)], sizeof(T));
  __syncwarp();
  return other;
}

namespace fastiqa {

// ---- launches ----

namespace emulate {

/// A launch that is written down instead of run; bench/machine_code/launches.py mirrors this layout.
struct Noted {
  const void* kernel;
  int64_t blocks, threads;
};

inline std::vector<Noted>* notes = nullptr;  // where launches are written down, if they are

}  // namespace emulate

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, const Tensor&, const Arguments&... arguments) {
  if (blocks == 0) return;
  if (emulate::notes != nullptr) {
    emulate::notes->push_back({reinterpret_cast<const void*>(kernel), blocks, threads});
    return;
  }
  emulate::Block block(threads);
  emulate::block = &block;
  emulate::Barrier finished(threads);
  blockDim = {static_cast<unsigned>(threads), 1, 1};
  gridDim = {static_cast<unsigned>(blocks), 1, 1};
  emulate::run(threads, [&] {
    for (int64_t b = 0; b < blocks; ++b) {
      emulate::begin_block(b);
      kernel(arguments...);
      finished.wait();
    }
  });
}

}  // namespace fastiqa
