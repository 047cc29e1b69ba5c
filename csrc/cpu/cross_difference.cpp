// cross_difference: [ref - a, ref - b] along the channels, and its adjoint.
//
//   forward    (N,C,H,W) x3 -> (N,2C,H,W)      reads 3, writes 2 maps
//   backward   (N,2C,H,W) -> (N,C,H,W) x3      reads 2, writes 3 maps:  ga + gb, -ga, -gb
//
// Both are one element-wise pass over five equal maps: the halves of the wide tensor are two operands.
#include "elementwise.h"

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
  const int64_t c = ref.sizes()[1];
  visit_dtype(ref, [&]<class T>() {
    elementwise<3, T>(std::array{view(ref), view(a), view(b), channels<T>(out, 0, c), channels<T>(out, c, c)}, Forward{},
                      ref);
  });
}

void cross_difference_backward(Tensor grad, Tensor grad_ref, Tensor grad_a, Tensor grad_b) {
  const int64_t c = grad_ref.sizes()[1];
  visit_dtype(grad, [&]<class T>() {
    elementwise<2, T>(
        std::array{channels<T>(grad, 0, c), channels<T>(grad, c, c), view(grad_ref), view(grad_a), view(grad_b)},
        Backward{}, grad);
  });
}

}  // namespace

FASTIQA_REGISTER(cross_difference, "cross_difference(Tensor ref, Tensor a, Tensor b, Tensor(a!) out) -> ()")
FASTIQA_REGISTER(cross_difference_backward,
                 "cross_difference_backward(Tensor grad, Tensor(a!) grad_ref, Tensor(b!) grad_a, Tensor(c!) grad_b) -> ()")

}  // namespace fastiqa
