// scale_residual_relu: relu(x s + residual), s = sigmoid(gate) one number a channel, and its adjoint.
//
//   forward    x, residual (N,C,H,W), gate (N,C,1,1) -> (N,C,H,W)                       reads 2, writes 1 map
//   backward   grad, x, out (N,C,H,W), gate -> grad_x, grad_residual, grad_gate          reads 3, writes 2 maps
//
//   with m = grad where out > 0, else 0:   grad_x = m s,   grad_residual = m,   grad_gate = s (1 - s) sum of m x
//
// The sigmoid is computed once a channel; the sum is taken in the pass that writes the gradients.
#include "core/arguments.h"
#include "core/sigmoid.h"
#include "passes/channelwise/pass.h"

namespace fastiqa {
namespace {

// ---- kernels ----

struct Gate {
  template <class A>
  FASTIQA_HD void prepare(A (&gate)[1]) const {
    gate[0] = sigmoid(gate[0]);
  }
};

struct Forward : Gate {
  template <class A>
  FASTIQA_HD void operator()(const A (&x)[2], const A (&s)[1], A (&y)[1]) const {
    const A sum = x[0] * s[0] + x[1];
    y[0] = sum <= 0 ? A{0} : sum;  // NaN stays NaN
  }
};

struct Backward : Gate {
  template <class A>
  FASTIQA_HD void operator()(const A (&x)[3], const A (&s)[1], A (&y)[2], A (&term)[1]) const {
    y[1] = x[2] <= 0 ? A{0} : x[0];
    y[0] = y[1] * s[0];
    term[0] = y[1] * x[1];
  }
  template <class A>
  FASTIQA_HD void finish(const A (&gate)[1], A (&sum)[1]) const {
    const A s = sigmoid(gate[0]);
    sum[0] *= (1 - s) * s;
  }
};

// ---- launchers ----

void scale_residual_relu(Tensor x, Tensor gate, Tensor residual, Tensor out) {
  const Arguments call("scale_residual_relu", "x", x);
  const auto [n, c, h, w] = call.sizes<4>("x", x);
  call.check({n, c, 1, 1}, "gate_logits", gate);
  call.check({n, c, h, w}, "residual", residual, "out", out);
  visit_dtype(x, [&]<class T>() {
    channelwise<2>(of<T>(view(x), view(residual), written(out)), of<T>(view(gate)), Forward{}, x);
  });
}

void scale_residual_relu_backward(Tensor grad, Tensor x, Tensor gate, Tensor out, Tensor grad_x, Tensor grad_gate,
                                  Tensor grad_residual) {
  const Arguments call("scale_residual_relu_backward", "grad", grad);
  const auto [n, c, h, w] = call.sizes<4>("grad", grad);
  call.check({n, c, h, w}, "x", x, "out", out, "grad_x", grad_x, "grad_residual", grad_residual);
  call.check({n, c, 1, 1}, "gate_logits", gate, "grad_gate", grad_gate);
  visit_dtype(x, [&]<class T>() {
    channelwise_sum<3>(of<T>(view(grad), view(x), view(out), written(grad_x), written(grad_residual)),
                       of<T>(view(gate)), of<T>(written(grad_gate)), Backward{}, x);
  });
}

}  // namespace

FASTIQA_REGISTER(scale_residual_relu,
                 "scale_residual_relu(Tensor x, Tensor gate_logits, Tensor residual, Tensor(a!) out) -> ()")
FASTIQA_REGISTER(scale_residual_relu_backward,
                 "scale_residual_relu_backward(Tensor grad, Tensor x, Tensor gate_logits, Tensor out, "
                 "Tensor(a!) grad_x, Tensor(b!) grad_gate, Tensor(c!) grad_residual) -> ()")

}  // namespace fastiqa
