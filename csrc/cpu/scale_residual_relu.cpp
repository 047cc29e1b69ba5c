// scale_residual_relu: relu(x s + residual), s = sigmoid(gate) one number a channel, and its adjoint.
//
//   forward    x, residual (N,C,H,W), gate (N,C,1,1) -> (N,C,H,W)                       reads 2, writes 1 map
//   backward   grad, x, out (N,C,H,W), gate -> grad_x, grad_residual, grad_gate          reads 3, writes 2 maps
//
//   with m = grad where out > 0, else 0:   grad_x = m s,   grad_residual = m,   grad_gate = s (1 - s) sum of m x
//
// The sigmoid is computed once a channel; the sum is taken in the pass that writes the gradients.
#include "channelwise.h"
#include "sigmoid.h"

namespace fastiqa {
namespace {

// ---- kernels ----

struct Forward {
  template <class A>
  FASTIQA_HD A prepare(A gate) const {
    return sigmoid(gate);
  }
  template <class A>
  FASTIQA_HD void operator()(const A (&x)[2], A s, A (&y)[1]) const {
    const A sum = x[0] * s + x[1];
    y[0] = sum <= 0 ? A{0} : sum;  // NaN stays NaN
  }
};

struct Backward {
  template <class A>
  FASTIQA_HD A prepare(A gate) const {
    return sigmoid(gate);
  }
  template <class A>
  FASTIQA_HD A operator()(const A (&x)[3], A s, A (&y)[2]) const {
    y[1] = x[2] <= 0 ? A{0} : x[0];
    y[0] = y[1] * s;
    return y[1] * x[1];
  }
  template <class A>
  FASTIQA_HD A finish(A gate, A sum) const {
    const A s = sigmoid(gate);
    return sum * (1 - s) * s;
  }
};

// ---- launchers ----

void scale_residual_relu(Tensor x, Tensor gate, Tensor residual, Tensor out) {
  visit_dtype(x, [&]<class T>() {
    channelwise<2, T>(std::array{view(x), view(residual), view(out)}, view(gate), Forward{}, x);
  });
}

void scale_residual_relu_backward(Tensor grad, Tensor x, Tensor gate, Tensor out, Tensor grad_x, Tensor grad_gate,
                                  Tensor grad_residual) {
  visit_dtype(x, [&]<class T>() {
    channelwise_sum<3, T>(std::array{view(grad), view(x), view(out), view(grad_x), view(grad_residual)}, view(gate),
                          view(grad_gate), Backward{}, x);
  });
}

}  // namespace

FASTIQA_REGISTER(scale_residual_relu,
                 "scale_residual_relu(Tensor x, Tensor gate_logits, Tensor residual, Tensor(a!) out) -> ()")
FASTIQA_REGISTER(scale_residual_relu_backward,
                 "scale_residual_relu_backward(Tensor grad, Tensor x, Tensor gate_logits, Tensor out, "
                 "Tensor(a!) grad_x, Tensor(b!) grad_gate, Tensor(c!) grad_residual) -> ()")

}  // namespace fastiqa
