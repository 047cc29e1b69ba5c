// high_pass: what a 2x2 average cannot carry. Its own adjoint.
//
//   (N,C,H,W) -> (N,C,H,W)      reads 1, writes 1 map:  y = x - mean of x's 2x2 block
//
// One pass over the blocks. The four pixels are added in PyTorch's order, so float32 and float64 equal eager bit for bit.
#include "core/arguments.h"
#include "passes/blocks/pass.h"

namespace fastiqa {
namespace {

// ---- kernels ----

struct HighPass {
  template <class In, class Out, class A>
  FASTIQA_HD void operator()(const In& in, Out& out, A share) const {
    const auto& x = in.fine[0];
    const A mean = (x[0] + x[1] + x[2] + x[3]) * share;
    for (int k = 0; k < 4; ++k) out.fine[0][k] = x[k] - mean;
  }
};

// ---- launchers ----

void high_pass(Tensor x, Tensor out) {
  const Arguments call("high_pass", "x", x);
  const auto [n, c, h, w] = call.sizes<4>("x", x);
  call.check({n, c, h, w}, "out", out);
  visit_dtype(x, [&]<class T>() { blocks<Maps<1, 0, 1, 0>, T>(std::array{view(x), written(out)}, HighPass{}, x); });
}

}  // namespace

FASTIQA_REGISTER(high_pass, "high_pass(Tensor x, Tensor(a!) out) -> ()")

}  // namespace fastiqa
