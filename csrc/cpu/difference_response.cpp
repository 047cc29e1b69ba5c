// difference_response: convolutions of [ref - a, ref - b] to a few output channels, and their gradients.
//
//   forward           (N,C,H,W) x3, (K,2C,k,k), (K) -> (N,K,H,W)        reads 3 maps
//   backward          (N,K,H,W), (K,2C,k,k) -> (3N,C,H,W)               writes 3 maps
//   weight_backward   (N,C,H,W) x3, (N,K,H,W) -> (K,2C,k,k)             reads 3 maps
#include "difference.h"

namespace fastiqa {
namespace {

// ---- launchers ----

void difference_response(Tensor ref, Tensor a, Tensor b, Tensor weight, std::optional<Tensor> bias, Tensor out) {
  visit_dtype(ref, [&]<class T>() {
    const T* bias_data = bias ? static_cast<const T*>(bias->data_ptr()) : nullptr;
    difference_sums<T>(triple<const T>(ref, a, b), weight_view(weight), bias_data, bias ? bias->strides()[0] : 0,
                       view(out), ref);
  });
}

void difference_response_backward(Tensor grad, Tensor weight, bool, Tensor out) {
  visit_dtype(grad, [&]<class T>() {
    difference_spread<T>(view(grad), weight_view(weight), thirds<T>(view(out)), grad);
  });
}

void difference_response_weight_backward(Tensor ref, Tensor a, Tensor b, Tensor grad, int64_t, bool each, Tensor out) {
  visit_dtype(ref, [&]<class T>() {
    difference_products<T>(triple<const T>(ref, a, b), view(grad), weight_view(out), each, ref);
  });
}

}  // namespace

FASTIQA_REGISTER(difference_response,
                 "difference_response(Tensor ref, Tensor a, Tensor b, Tensor weight, Tensor? bias, Tensor(a!) out) -> ()")
FASTIQA_REGISTER(difference_response_backward,
                 "difference_response_backward(Tensor grad, Tensor weight, bool channels_last, "
                 "Tensor(a!) out) -> ()")
FASTIQA_REGISTER(difference_response_weight_backward,
                 "difference_response_weight_backward(Tensor ref, Tensor a, Tensor b, Tensor grad, int kernel_size, "
                 "bool each, Tensor(a!) out) -> ()")

}  // namespace fastiqa
