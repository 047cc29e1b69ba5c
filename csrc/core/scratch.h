// Memory that lives as long as its object.
#pragma once

#include <cstring>
#include <memory>

#include "core/tensor.h"

namespace fastiqa {

#if defined(__CUDACC__)

/// On the tensor's device, from PyTorch's allocator, which hands it on only to what runs later on the same stream.
template <class T>
class Scratch {
 public:
  Scratch(const Tensor& on, int64_t count)
      : tensor_(torch::stable::new_empty(on, {count * int64_t{sizeof(T)}}, torch::headeronly::ScalarType::Byte)) {}
  T* data() const { return static_cast<T*>(tensor_.mutable_data_ptr()); }

 private:
  Tensor tensor_;
};

#else

/// On the host, exact to the byte for the address sanitizer. Under emulation it starts as NaN, which exposes a sum of
/// elements that nobody wrote.
template <class T>
class Scratch {
 public:
  Scratch(const Tensor&, int64_t count) : data_(new T[count]) {
#if defined(FASTIQA_EMULATE)
    std::memset(static_cast<void*>(data_.get()), 0xff, count * sizeof(T));
#endif
  }
  T* data() const { return data_.get(); }

 private:
  std::unique_ptr<T[]> data_;
};

#endif

}  // namespace fastiqa
