// difference_response: convolutions of [ref - a, ref - b] to a few output channels, and their gradients.
//
//   forward           (N,C,H,W) x3, (K,2C,k,k), (K) -> (N,K,H,W)        reads 3 maps
//   backward          (N,K,H,W), (K,2C,k,k) -> (3N,C,H,W)               writes 3 maps
//   weight_backward   (N,C,H,W) x3, (N,K,H,W) -> (K,2C,k,k)             reads 3 maps
#include <optional>

#include "core/arguments.h"
#include "passes/difference/pass.h"

namespace fastiqa {
namespace {

// ---- launchers ----

constexpr int64_t kMostOutputs = 16;  // MOST_OUTPUTS in ops/difference_response.py

/// What a weight (outputs, 2C, size, size), or one for each of n samples, must be besides. Returns its last sizes.
std::array<int64_t, 4> check_weight(const Arguments& call, const char* name, const Tensor& weight, int64_t n) {
  std::array<int64_t, 4> last;
  if (weight.dim() == 5) {
    const auto all = call.sizes<5>(name, weight);
    call.want(all[0] == n, name, "got ", all[0], " samples, want ", n);
    std::copy_n(all.begin() + 1, 4, last.begin());
  } else {
    last = call.sizes<4>(name, weight);
  }
  call.want(last[0] <= kMostOutputs, name, "got ", last[0], " outputs, want ", kMostOutputs, " at most");
  call.want(last[1] % 2 == 0, name, "got ", last[1], " channels, want an even number");
  call.want(last[2] == last[3] && (last[3] == 1 || last[3] == 3), name, "got a kernel of ", last[2], "x", last[3],
            ", want 1x1 or 3x3");
  return last;
}

void difference_response(Tensor ref, Tensor a, Tensor b, Tensor weight, std::optional<Tensor> bias, Tensor out) {
  const Arguments call("difference_response", "ref", ref);
  const auto [n, c, h, w] = call.sizes<4>("ref", ref);
  call.check({n, c, h, w}, "a", a, "b", b);
  const auto [k, channels, rows, columns] = check_weight(call, "weight", weight, n);
  call.want(channels == 2 * c, "weight", "got ", channels, " channels, want ", 2 * c);
  if (bias) call.check({k}, "bias", *bias);
  call.check({n, k, h, w}, "out", out);
  visit_dtype(ref, [&]<class T>() {
    const T* bias_data = bias ? data_of<const T>(*bias) : nullptr;
    difference_sums<T>(triple<const T>(ref, a, b), weight_view(weight), bias_data, bias ? bias->strides()[0] : 0,
                       written(out), ref);
  });
}

void difference_response_backward(Tensor grad, Tensor weight, bool, Tensor out) {
  const Arguments call("difference_response_backward", "grad", grad);
  const auto [n, k, h, w] = call.sizes<4>("grad", grad);
  const auto [outputs, channels, rows, columns] = check_weight(call, "weight", weight, n);
  call.want(outputs == k, "weight", "got ", outputs, " outputs, want ", k);
  call.check({3 * n, channels / 2, h, w}, "out", out);
  visit_dtype(grad, [&]<class T>() {
    difference_spread<T>(view(grad), weight_view(weight), thirds<T>(written(out)), grad);
  });
}

void difference_response_weight_backward(Tensor ref, Tensor a, Tensor b, Tensor grad, int64_t kernel_size, bool each,
                                         Tensor out) {
  const Arguments call("difference_response_weight_backward", "ref", ref);
  const auto [n, c, h, w] = call.sizes<4>("ref", ref);
  call.check({n, c, h, w}, "a", a, "b", b);
  call.want(out.dim() == (each ? 5 : 4), "out", "got ", out.dim(), " dimensions, want ", each ? 5 : 4);
  const auto [k, channels, rows, columns] = check_weight(call, "out", out, n);
  call.want(channels == 2 * c, "out", "got ", channels, " channels, want ", 2 * c);
  call.want(rows == kernel_size, "kernel_size", "got ", kernel_size, ", want ", rows, ", the size of out");
  call.check({n, k, h, w}, "grad", grad);
  visit_dtype(ref, [&]<class T>() {
    difference_products<T>(triple<const T>(ref, a, b), view(grad), weight_written(out), each, ref);
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
