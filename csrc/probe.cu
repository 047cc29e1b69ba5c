// Whether nvcc, its host compiler and this torch can make the CUDA kernels, tried before they are to compile them all.
#include "passes/elementwise/pass.h"

namespace fastiqa {
namespace {

struct Negative {
  template <class A>
  FASTIQA_HD void operator()(const A (&x)[1], A (&y)[1]) const {
    y[0] = -x[0];
  }
};

void probe(Tensor x, Tensor out) { elementwise<1, float>(std::array{view(x), view(out)}, Negative{}, x); }

}  // namespace

FASTIQA_REGISTER(probe, "probe(Tensor x, Tensor(a!) out) -> ()")

}  // namespace fastiqa
