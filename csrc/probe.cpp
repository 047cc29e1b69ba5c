// Whether a C++ compiler can make the CPU kernels, tried before it is to compile them all: vectors and their shuffles,
// clones of templates for several instruction sets, lambdas that are inlined, PyTorch's stable ABI.
#include "core/simd.h"

namespace fastiqa {
namespace {

template <class A, class F>
FASTIQA_CLONES void transposed(Vec<A> (&v)[kLanes<A>], F f) {
  transpose<kLanes<A> / 2, A>(v);
  for (int64_t i = 0; i < kLanes<A>; ++i) f(v[i]);
}

}  // namespace
}  // namespace fastiqa

/// The instruction sets of the clones, an empty string without them.
extern "C" __attribute__((visibility("default"))) const char* fastiqa_probe() {
  using namespace fastiqa;
  Vectors<float> memory(kLanes<float>);
  auto& v = *reinterpret_cast<Vec<float>(*)[kLanes<float>]>(memory.data());
  transposed<float>(v, [](Vec<float>& row) __attribute__((always_inline)) { row += 1; });
  return v[0][0] == 1 ? FASTIQA_CLONE_NAMES : "";
}
