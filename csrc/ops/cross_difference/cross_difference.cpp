// cross_difference: [ref - a, ref - b] along the channels, and its adjoint.
//
//   forward    (N,C,H,W) x3 -> (N,2C,H,W)      reads 3, writes 2 maps
//   backward   (N,2C,H,W) -> (N,C,H,W) x3      reads 2, writes 3 maps:  ga + gb, -ga, -gb
//
// Both are one element-wise pass over five equal maps: the halves of the wide tensor are two operands.
#include "core/arguments.h"
#include "passes/elementwise/pass.h"

namespace fastiqa {
namespace {

// ---- kernels ----

struct Forward {
  template <class A>
  FASTIQA_HD void operator()(const A (&x)[3], A (&y)[2]) const {
    y[0] = x[0] - x[1];
    y[1] = x[0] - x[2];
  }
};

struct Backward {
  template <class A>
  FASTIQA_HD void operator()(const A (&x)[2], A (&y)[3]) const {
    y[0] = x[0] + x[1];
    y[1] = -x[0];
    y[2] = -x[1];
  }
};

// ---- launchers ----

void cross_difference(Tensor ref, Tensor a, Tensor b, Tensor out) {
  const Arguments call("cross_difference", "ref", ref);
  const auto [n, c, h, w] = call.sizes<4>("ref", ref);
  call.check({n, c, h, w}, "a", a, "b", b);
  call.check({n, 2 * c, h, w}, "out", out);
  visit_dtype(ref, [&, c = c]<class T>() {
    const View to = written(out);
    elementwise<3, T>(std::array{view(ref), view(a), view(b), channels<T>(to, 0, c), channels<T>(to, c, c)}, Forward{},
                      ref);
  });
}

void cross_difference_backward(Tensor grad, Tensor grad_ref, Tensor grad_a, Tensor grad_b) {
  const Arguments call("cross_difference_backward", "grad", grad);
  const auto [n, c, h, w] = call.sizes<4>("grad_ref", grad_ref);
  call.check({n, 2 * c, h, w}, "grad", grad);
  call.check({n, c, h, w}, "grad_a", grad_a, "grad_b", grad_b);
  visit_dtype(grad, [&, c = c]<class T>() {
    const View from = view(grad);
    elementwise<2, T>(std::array{channels<T>(from, 0, c), channels<T>(from, c, c), written(grad_ref), written(grad_a),
                                 written(grad_b)},
                      Backward{}, grad);
  });
}

}  // namespace

FASTIQA_REGISTER(cross_difference, "cross_difference(Tensor ref, Tensor a, Tensor b, Tensor(a!) out) -> ()")
FASTIQA_REGISTER(cross_difference_backward,
                 "cross_difference_backward(Tensor grad, Tensor(a!) grad_ref, Tensor(b!) grad_a, Tensor(c!) grad_b) -> ()")

}  // namespace fastiqa
