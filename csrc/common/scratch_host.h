// Memory of the host for as long as this object lives, its size exact to the byte for the address sanitizer; launch.h has
// the same on a GPU.
#pragma once

#include <cstdint>
#include <memory>

namespace fastiqa {

template <class T>
class Scratch {
 public:
  template <class On>
  Scratch(const On&, int64_t count) : data_(new T[count]) {}
  T* data() const { return data_.get(); }

 private:
  std::unique_ptr<T[]> data_;
};

}  // namespace fastiqa
