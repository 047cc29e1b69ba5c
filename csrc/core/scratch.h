// Memory of the host for as long as this object lives, its size exact to the byte for the address sanitizer; launch.h has
// the same on a GPU. Under emulation it is NaN to begin with, so that a sum of what nobody wrote is found.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>

namespace fastiqa {

template <class T>
class Scratch {
 public:
  template <class On>
  Scratch(const On&, int64_t count) : data_(new T[count]) {
#if defined(FASTIQA_EMULATE)
    std::memset(static_cast<void*>(data_.get()), 0xff, count * sizeof(T));
#endif
  }
  T* data() const { return data_.get(); }

 private:
  std::unique_ptr<T[]> data_;
};

}  // namespace fastiqa
