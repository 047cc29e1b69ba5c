// difference_pool: sums of gated differences over the pixels, for each tap: difference_response's gradient for a weight.
//
//   forward    (N,C,H,W) x3, (N,1,H,W) -> (N,2,C,k,k)      reads 3 maps
#include "core/arguments.h"
#include "passes/difference/pass.h"

namespace fastiqa {
namespace {

// ---- launchers ----

void difference_pool(Tensor ref, Tensor a, Tensor b, Tensor gate, int64_t kernel_size, Tensor out) {
  const Arguments call("difference_pool", "ref", ref);
  const auto [n, c, h, w] = call.sizes<4>("ref", ref);
  call.check({n, c, h, w}, "a", a, "b", b);
  call.check({n, 1, h, w}, "gate", gate);
  call.want(kernel_size == 1 || kernel_size == 3, "kernel_size", "got ", kernel_size, ", want 1 or 3");
  call.check({n, 2, c, kernel_size, kernel_size}, "out", out);
  const auto& stride = out.strides();
  const WeightView as_weight{data_of<void>(out), 1, c, kernel_size, stride[0], 0, stride[1], stride[2], stride[3],
                             stride[4]};
  visit_dtype(ref, [&]<class T>() { difference_products<T>(triple<const T>(ref, a, b), view(gate), as_weight, true, ref); });
}

}  // namespace

FASTIQA_REGISTER(difference_pool,
                 "difference_pool(Tensor ref, Tensor a, Tensor b, Tensor gate, int kernel_size, Tensor(a!) out) -> ()")

}  // namespace fastiqa
