// Replaces PyTorch in the tests' own programs, so that the sanitizers see only the kernels: tensors on plain memory,
// operators called by name, and loops whose parts run one after the other.
//
//   -include emulate/plain_tensor.h     the CPU sources as they are
//   -include emulate/emulate.h          the CUDA sources
//
// Operators are called by name through one C function, fastiqa_emulate, with an array of Value.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/dtype.h"

#define FASTIQA_PLAIN

namespace fastiqa {

// ---- tensors ----

enum Access : int64_t { kRead = 1, kWritten = 2 };

struct Tensor {
  void* data = nullptr;
  Dtype dtype = Dtype::float32;
  std::vector<int64_t> size, step;
  int64_t* access = nullptr;  // what it was asked for

  const void* const_data_ptr() const { return *access |= kRead, data; }
  void* mutable_data_ptr() const { return *access |= kWritten, data; }
  int64_t dim() const { return static_cast<int64_t>(size.size()); }
  const std::vector<int64_t>& sizes() const { return size; }
  const std::vector<int64_t>& strides() const { return step; }
};

inline bool is_defined(const Tensor&) { return true; }
inline bool has_dtype(const Tensor& tensor, Dtype dtype) { return tensor.dtype == dtype; }
inline Dtype dtype_of(const Tensor& tensor) { return tensor.dtype; }
inline int32_t device_of(const Tensor&) { return -1; }

// ---- threads ----

constexpr int64_t kThreadsAtMost = 3;

inline int64_t get_num_threads() { return kThreadsAtMost; }

/// f(begin, end) for as many parts as that number of threads would have.
template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
  if (begin >= end) return;
  const int64_t parts = std::clamp<int64_t>((end - begin) / std::max<int64_t>(1, grain), 1, kThreadsAtMost);
  const int64_t length = (end - begin + parts - 1) / parts;
  for (; begin < end; begin += length) f(begin, std::min(begin + length, end));
}

namespace emulate {

// ---- calls by name ----

/// An argument as the caller hands it over; emulation.py mirrors this layout.
struct Value {
  enum Kind : int32_t { tensor, integer, real, text, none };
  int32_t kind;
  int32_t dtype;
  int64_t rank;
  int64_t sizes[8];
  int64_t strides[8];
  void* data;
  int64_t access;  // of a tensor, after the call: the sum of Access
  int64_t whole;
  double number;
  char characters[32];
};

template <class T>
T unbox(Value& value) {
  if constexpr (std::is_same_v<T, Tensor>)
    return Tensor{value.data, static_cast<Dtype>(value.dtype), {value.sizes, value.sizes + value.rank},
                  {value.strides, value.strides + value.rank}, &value.access};
  else if constexpr (std::is_same_v<T, std::optional<Tensor>>)
    return value.kind == Value::none ? T() : unbox<Tensor>(value);
  else if constexpr (std::is_same_v<T, std::string>)
    return value.characters;
  else if constexpr (std::is_floating_point_v<T>)
    return static_cast<T>(value.number);
  else
    return static_cast<T>(value.whole);
}

using Boxed = void (*)(Value*, int64_t);

inline std::map<std::string, Boxed>& registry() {
  static std::map<std::string, Boxed> operators;
  return operators;
}

template <auto function>
struct Box;
template <class... Parameters, void (*function)(Parameters...)>
struct Box<function> {
  static void call(Value* values, int64_t count) {
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

}  // namespace fastiqa
