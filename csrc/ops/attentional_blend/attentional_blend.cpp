// attentional_blend: m x + (1 - m) y with m = sigmoid(local + global), global one number a channel, and its adjoint.
//
//   forward    x, y, local (N,C,H,W), global (N,C,1,1) -> (N,C,H,W)                                reads 3, writes 1 map
//   backward   grad, x, y, local, global -> grad_x, grad_y, grad_local, grad_global                reads 4, writes 3 maps
//
//   grad_x = m g,   grad_y = (1 - m) g,   grad_local = m (1 - m) (x - y) g,   grad_global = the sum of grad_local
//
// The mask m is computed again in the backward pass: it costs less than reading it.
#include "core/arguments.h"
#include "core/sigmoid.h"
#include "passes/channelwise/pass.h"

namespace fastiqa {
namespace {

// ---- kernels ----

struct Forward {
  template <class A>
  FASTIQA_HD void operator()(const A (&x)[3], const A (&global)[1], A (&y)[1]) const {
    const A m = sigmoid(x[2] + global[0]);
    y[0] = m * x[0] + (1 - m) * x[1];
  }
};

struct Backward {
  template <class A>
  FASTIQA_HD void operator()(const A (&x)[4], const A (&global)[1], A (&y)[3], A (&term)[1]) const {
    const A m = sigmoid(x[3] + global[0]);
    y[0] = x[0] * m;
    y[1] = x[0] * (1 - m);
    y[2] = x[0] * (x[1] - x[2]) * (1 - m) * m;
    term[0] = y[2];
  }
};

// ---- launchers ----

void attentional_blend(Tensor x, Tensor y, Tensor local, Tensor global, Tensor out) {
  const Arguments call("attentional_blend", "x", x);
  const auto [n, c, h, w] = call.sizes<4>("x", x);
  call.check({n, c, h, w}, "y", y, "local_logits", local, "out", out);
  call.check({n, c, 1, 1}, "global_logits", global);
  visit_dtype(x, [&]<class T>() {
    channelwise<3>(of<T>(view(x), view(y), view(local), written(out)), of<T>(view(global)), Forward{}, x);
  });
}

void attentional_blend_backward(Tensor grad, Tensor x, Tensor y, Tensor local, Tensor global, Tensor grad_x,
                                Tensor grad_y, Tensor grad_local, Tensor grad_global) {
  const Arguments call("attentional_blend_backward", "grad", grad);
  const auto [n, c, h, w] = call.sizes<4>("grad", grad);
  call.check({n, c, h, w}, "x", x, "y", y, "local_logits", local, "grad_x", grad_x, "grad_y", grad_y,
             "grad_local", grad_local);
  call.check({n, c, 1, 1}, "global_logits", global, "grad_global", grad_global);
  visit_dtype(x, [&]<class T>() {
    channelwise_sum<4>(of<T>(view(grad), view(x), view(y), view(local), written(grad_x), written(grad_y),
                             written(grad_local)),
                       of<T>(view(global)), of<T>(written(grad_global)), Backward{}, x);
  });
}

}  // namespace

FASTIQA_REGISTER(attentional_blend,
                 "attentional_blend(Tensor x, Tensor y, Tensor local_logits, Tensor global_logits, Tensor(a!) out) -> ()")
FASTIQA_REGISTER(attentional_blend_backward,
                 "attentional_blend_backward(Tensor grad, Tensor x, Tensor y, Tensor local_logits, Tensor global_logits, "
                 "Tensor(a!) grad_x, Tensor(b!) grad_y, Tensor(c!) grad_local, Tensor(d!) grad_global) -> ()")

}  // namespace fastiqa
