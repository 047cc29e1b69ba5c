// Calls of operators without PyTorch from outside: one C function for ctypes, and, with -DFASTIQA_DRIVER, a program that
// runs the calls recorded in a file. The program allocates every tensor's storage to the byte, so the address sanitizer sees
// each access beyond it; nothing but the kernels and this file is in the process.
//
//   driver CALLS RESULTS
//
// CALLS: int64 count, then for each call: int64 length and name, int64 values, then for each value a Value, and for a
// tensor int64 bytes of storage, int64 offset of its data, and the storage. RESULTS: every storage after its call.
#include <dlfcn.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>

#include "core/tensor.h"

using fastiqa::emulate::Value;

extern "C" const char* fastiqa_emulate(const char* name, Value* values, int64_t count) {
  static thread_local std::string error;
  const auto found = fastiqa::emulate::registry().find(name);
  try {
    FASTIQA_CHECK(found != fastiqa::emulate::registry().end(), "no operator ", name);
    found->second(values, count);
  } catch (const std::exception& exception) {
    error = exception.what();
    return error.c_str();
  }
  return nullptr;
}

#if defined(FASTIQA_EMULATE)
/// From now on launches are written down, not run. Gives and forgets those since the last call: at most `room` of them,
/// each kernel as an offset in this library.
extern "C" int64_t fastiqa_note_launches(fastiqa::emulate::Noted* to, int64_t room) {
  static std::vector<fastiqa::emulate::Noted> notes;
  fastiqa::emulate::notes = &notes;
  const auto count = std::min<int64_t>(static_cast<int64_t>(notes.size()), room);
  for (int64_t k = 0; k < count; ++k) {
    Dl_info library;
    if (dladdr(notes[k].kernel, &library) == 0) return -1;
    const auto offset = static_cast<const char*>(notes[k].kernel) - static_cast<const char*>(library.dli_fbase);
    to[k] = {reinterpret_cast<const void*>(offset), notes[k].blocks, notes[k].threads};
  }
  notes.clear();
  return count;
}
#endif

#if defined(FASTIQA_DRIVER)

namespace {

template <class T>
T read(std::istream& in) {
  T value;
  in.read(reinterpret_cast<char*>(&value), sizeof(T));
  return value;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  std::ifstream in(argv[1], std::ios::binary);
  std::ofstream out(argv[2], std::ios::binary);
  for (int64_t calls = read<int64_t>(in); calls > 0; --calls) {
    std::string name(read<int64_t>(in), '\0');
    in.read(name.data(), static_cast<std::streamsize>(name.size()));
    std::vector<Value> values(read<int64_t>(in));
    std::vector<std::unique_ptr<char[]>> storages;
    std::vector<int64_t> bytes;
    for (auto& value : values) {
      value = read<Value>(in);
      if (value.kind != Value::tensor) continue;
      bytes.push_back(read<int64_t>(in));
      const int64_t offset = read<int64_t>(in);
      storages.emplace_back(new char[bytes.back()]);
      in.read(storages.back().get(), bytes.back());
      value.data = storages.back().get() + offset;
    }
    if (const char* error = fastiqa_emulate(name.c_str(), values.data(), static_cast<int64_t>(values.size()))) {
      std::cerr << error << '\n';
      return 1;
    }
    for (size_t i = 0; i < storages.size(); ++i) out.write(storages[i].get(), bytes[i]);
  }
  return in.good() && out.good() ? 0 : 1;
}

#endif
