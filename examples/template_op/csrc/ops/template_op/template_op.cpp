// template_op: y = x |x|, and its adjoint 2 |x| g.
//
//   forward    (N,C,H,W) -> (N,C,H,W)          reads 1, writes 1 map
//   backward   (N,C,H,W) x2 -> (N,C,H,W)       reads 2, writes 1 map
#include "core/arguments.h"
#include "passes/elementwise/pass.h"

namespace fastiqa {
namespace {

// ---- kernels ----

struct Forward {
  template <class A>
  FASTIQA_HD void operator()(const A (&x)[1], A (&y)[1]) const {
    y[0] = x[0] < 0 ? -x[0] * x[0] : x[0] * x[0];
  }
};

struct Backward {
  template <class A>
  FASTIQA_HD void operator()(const A (&x)[2], A (&y)[1]) const {
    y[0] = 2 * (x[0] < 0 ? -x[0] : x[0]) * x[1];
  }
};

// ---- launchers ----

void template_op(Tensor x, Tensor out) {
  const Arguments call("template_op", "x", x);
  const auto [n, c, h, w] = call.sizes<4>("x", x);
  call.check({n, c, h, w}, "out", out);
  visit_dtype(x, [&]<class T>() { elementwise<1, T>(std::array{view(x), written(out)}, Forward{}, x); });
}

void template_op_backward(Tensor x, Tensor grad, Tensor out) {
  const Arguments call("template_op_backward", "x", x);
  const auto [n, c, h, w] = call.sizes<4>("x", x);
  call.check({n, c, h, w}, "grad", grad, "out", out);
  visit_dtype(x, [&]<class T>() { elementwise<2, T>(std::array{view(x), view(grad), written(out)}, Backward{}, x); });
}

}  // namespace

FASTIQA_REGISTER(template_op, "template_op(Tensor x, Tensor(a!) out) -> ()")
FASTIQA_REGISTER(template_op_backward, "template_op_backward(Tensor x, Tensor grad, Tensor(a!) out) -> ()")

}  // namespace fastiqa
