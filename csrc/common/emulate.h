// The CUDA sources on a CPU, for tests: g++ -DFASTIQA_EMULATE compiles a .cu file against this header instead of the
// CUDA runtime and PyTorch.
//
// emulate_threads.h runs the threads of a block; the blocks of a grid run one after another. A warp's shuffles go through
// an array of lanes, __shared__ is static. So the address, undefined-behaviour and thread sanitizers see the kernel's own
// accesses and its own races. A kernel must not return before its block's last barrier: on a GPU that is undefined.
//
// Operators are called by name through one C function, fastiqa_emulate, with an array of Value.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "dtype.h"
#include "emulate_threads.h"
#include "scratch_host.h"

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

// ---- tensors ----

#define FASTIQA_CHECK(condition, ...) \
  if (!(condition)) ::fastiqa::emulate::fail(__VA_ARGS__)

struct Tensor {
  void* data = nullptr;
  Dtype dtype = Dtype::float32;
  std::vector<int64_t> size, step;

  void* data_ptr() const { return data; }
  int64_t dim() const { return static_cast<int64_t>(size.size()); }
  const std::vector<int64_t>& sizes() const { return size; }
  const std::vector<int64_t>& strides() const { return step; }
};

inline Dtype dtype_of(const Tensor& tensor) { return tensor.dtype; }

namespace emulate {

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

// ---- calls by name ----

/// An argument as the caller hands it over; tests/emulation.py mirrors this layout.
struct Value {
  enum Kind : int32_t { tensor, integer, real, text, none };
  int32_t kind;
  int32_t dtype;
  int64_t rank;
  int64_t sizes[8];
  int64_t strides[8];
  void* data;
  int64_t whole;
  double number;
  char characters[32];
};

template <class T>
T unbox(const Value& value) {
  if constexpr (std::is_same_v<T, Tensor>)
    return Tensor{value.data, static_cast<Dtype>(value.dtype), {value.sizes, value.sizes + value.rank},
                  {value.strides, value.strides + value.rank}};
  else if constexpr (std::is_same_v<T, std::optional<Tensor>>)
    return value.kind == Value::none ? T() : unbox<Tensor>(value);
  else if constexpr (std::is_same_v<T, std::string>)
    return value.characters;
  else if constexpr (std::is_floating_point_v<T>)
    return static_cast<T>(value.number);
  else
    return static_cast<T>(value.whole);
}

using Boxed = void (*)(const Value*, int64_t);

inline std::map<std::string, Boxed>& registry() {
  static std::map<std::string, Boxed> operators;
  return operators;
}

template <auto function>
struct Box;
template <class... Parameters, void (*function)(Parameters...)>
struct Box<function> {
  static void call(const Value* values, int64_t count) {
    FASTIQA_CHECK(count == sizeof...(Parameters), "takes ", sizeof...(Parameters), " arguments, got ", count);
    [&]<size_t... I>(std::index_sequence<I...>) {
      function(unbox<std::decay_t<Parameters>>(values[I])...);
    }(std::index_sequence_for<Parameters...>());
  }
};

struct Registration {
  Registration(const char* name, Boxed boxed) { registry()[name] = boxed; }
};

}  // namespace emulate

#define FASTIQA_REGISTER(op, schema) static const ::fastiqa::emulate::Registration registration_##op(#op, &::fastiqa::emulate::Box<&op>::call);

// ---- launches ----

namespace emulate {

/// A launch that is written down instead of run; tests/launches.py mirrors this layout.
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
