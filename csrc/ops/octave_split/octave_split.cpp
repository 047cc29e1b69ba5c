// octave_split: leaky ReLU and the average of its result over 2x2 blocks, and the adjoint.
//
//   forward    (N,C,H,W) -> (N,C,H,W), (N,C,H/2,W/2)                reads 1, writes 1.25 maps
//   backward   (N,C,H,W) x2, (N,C,H/2,W/2) -> (N,C,H,W)             reads 2.25, writes 1 map
//
// Half sizes are rounded up. Both are one pass over the blocks; backward needs only the sign of the activation.
#include "core/arguments.h"
#include "passes/blocks/pass.h"

namespace fastiqa {
namespace {

// ---- kernels ----

template <class A>
struct Split {
  A slope;

  template <class In, class Out>
  FASTIQA_HD void operator()(const In& in, Out& out, A share) const {
    auto& y = out.fine[0];
    for (int k = 0; k < 4; ++k) y[k] = in.fine[0][k] > 0 ? in.fine[0][k] : in.fine[0][k] * slope;
    out.coarse[0] = (y[0] + y[1] + y[2] + y[3]) * share;
  }
};

template <class A>
struct Gradient {
  A slope;

  template <class In, class Out>
  FASTIQA_HD void operator()(const In& in, Out& out, A share) const {
    const A pooled = in.coarse[0] * share;
    for (int k = 0; k < 4; ++k) {
      const A grad = in.fine[1][k] + pooled;
      out.fine[0][k] = in.fine[0][k] > 0 ? grad : grad * slope;
    }
  }
};

// ---- launchers ----

void octave_split(Tensor x, double negative_slope, Tensor act, Tensor pooled) {
  const Arguments call("octave_split", "x", x);
  const auto [n, c, h, w] = call.sizes<4>("x", x);
  call.check({n, c, h, w}, "act", act);
  call.check({n, c, (h + 1) / 2, (w + 1) / 2}, "pooled", pooled);
  visit_dtype(x, [&]<class T>() {
    const Split<accumulator_t<T>> split{static_cast<accumulator_t<T>>(negative_slope)};
    blocks<Maps<1, 0, 1, 1>, T>(std::array{view(x), written(act), written(pooled)}, split, x);
  });
}

void octave_split_backward(Tensor act, Tensor grad_act, Tensor grad_pooled, double negative_slope, Tensor grad_x) {
  const Arguments call("octave_split_backward", "act", act);
  const auto [n, c, h, w] = call.sizes<4>("act", act);
  call.check({n, c, h, w}, "grad_act", grad_act, "grad_x", grad_x);
  call.check({n, c, (h + 1) / 2, (w + 1) / 2}, "grad_pooled", grad_pooled);
  visit_dtype(act, [&]<class T>() {
    const Gradient<accumulator_t<T>> gradient{static_cast<accumulator_t<T>>(negative_slope)};
    blocks<Maps<2, 1, 1, 0>, T>(std::array{view(act), view(grad_act), view(grad_pooled), written(grad_x)}, gradient, act);
  });
}

}  // namespace

FASTIQA_REGISTER(octave_split,
                 "octave_split(Tensor x, float negative_slope, Tensor(a!) act, Tensor(b!) pooled) -> ()")
FASTIQA_REGISTER(octave_split_backward,
                 "octave_split_backward(Tensor act, Tensor grad_act, Tensor grad_pooled, float negative_slope, "
                 "Tensor(a!) grad_x) -> ()")

}  // namespace fastiqa
