// octave_merge: high + up(low), up repeating a value over its 2x2 block, and the adjoint of up.
//
//   forward    (N,C,H,W), (N,C,H/2,W/2) -> (N,C,H,W)      reads 1.25, writes 1 map
//   backward   (N,C,H,W) -> (N,C,H/2,W/2)                 reads 1, writes 0.25 maps: sums over blocks
//
// Half sizes are rounded up. Both are one pass over the blocks.
#include "core/arguments.h"
#include "passes/blocks/pass.h"

namespace fastiqa {
namespace {

// ---- kernels ----

struct Merge {
  template <class In, class Out, class A>
  FASTIQA_HD void operator()(const In& in, Out& out, A) const {
    for (int k = 0; k < 4; ++k) out.fine[0][k] = in.fine[0][k] + in.coarse[0];
  }
};

struct Sums {
  template <class In, class Out, class A>
  FASTIQA_HD void operator()(const In& in, Out& out, A) const {
    const auto& g = in.fine[0];
    out.coarse[0] = g[0] + g[1] + g[2] + g[3];
  }
};

// ---- launchers ----

void octave_merge(Tensor high, Tensor low, Tensor out) {
  const Arguments call("octave_merge", "high", high);
  const auto [n, c, h, w] = call.sizes<4>("high", high);
  call.check({n, c, (h + 1) / 2, (w + 1) / 2}, "low", low);
  call.check({n, c, h, w}, "out", out);
  visit_dtype(high, [&]<class T>() {
    blocks<Maps<1, 1, 1, 0>, T>(std::array{view(high), view(low), written(out)}, Merge{}, high);
  });
}

void octave_merge_backward(Tensor grad, Tensor grad_low) {
  const Arguments call("octave_merge_backward", "grad", grad);
  const auto [n, c, h, w] = call.sizes<4>("grad", grad);
  call.check({n, c, (h + 1) / 2, (w + 1) / 2}, "grad_low", grad_low);
  visit_dtype(grad, [&]<class T>() {
    blocks<Maps<1, 0, 0, 1>, T>(std::array{view(grad), written(grad_low)}, Sums{}, grad);
  });
}

}  // namespace

FASTIQA_REGISTER(octave_merge, "octave_merge(Tensor high, Tensor low, Tensor(a!) out) -> ()")
FASTIQA_REGISTER(octave_merge_backward, "octave_merge_backward(Tensor grad, Tensor(a!) grad_low) -> ()")

}  // namespace fastiqa
