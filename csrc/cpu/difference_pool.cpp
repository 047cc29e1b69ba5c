// difference_pool: sums of gated differences over the pixels, for each tap: difference_response's gradient for a weight.
//
//   forward    (N,C,H,W) x3, (N,1,H,W) -> (N,2,C,k,k)      reads 3 maps
#include "difference.h"

namespace fastiqa {
namespace {

// ---- launchers ----

void difference_pool(Tensor ref, Tensor a, Tensor b, Tensor gate, int64_t, Tensor out) {
  const auto size = out.sizes();
  const auto stride = out.strides();
  const WeightView as_weight{out.data_ptr(), 1,         size[2],   size[3],  stride[0], 0, stride[1],
                             stride[2],      stride[3], stride[4]};
  visit_dtype(ref, [&]<class T>() { difference_products<T>(triple<const T>(ref, a, b), view(gate), as_weight, true, ref); });
}

}  // namespace

FASTIQA_REGISTER(difference_pool,
                 "difference_pool(Tensor ref, Tensor a, Tensor b, Tensor gate, int kernel_size, Tensor(a!) out) -> ()")

}  // namespace fastiqa
