// A block reduction for the emulation itself: barriers, shared memory and shuffles must work, and each of these faults,
// committed on request, must be found by its sanitizer.
//
//   1  a left-out __syncthreads            thread sanitizer
//   2  a write one past the end            address sanitizer
//   3  a 16-byte access off its alignment  undefined-behaviour sanitizer
//   4  a signed overflow                   undefined-behaviour sanitizer
//   5  a return before the last barrier    the emulation
#include "core/launch.h"
#include "core/pack.h"

namespace fastiqa {
namespace {

constexpr int kBlock = 64;

__global__ void block_sum_kernel(const float* x, float* sums, int64_t elements, int64_t fault) {
  __shared__ float of_warp[kBlock / 32];
  const int64_t i = global_thread<int64_t>();
  float sum = i < elements ? x[i] : 0.0f;
  for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
  if (fault != 1) __syncthreads();
  if (threadIdx.x == 0) {
    sums[blockIdx.x + (fault == 2 ? gridDim.x : 0)] = of_warp[0] + of_warp[1];
    if (fault == 3) sums[0] += Pack<float, 4>::load(x + 1).element[0];
    if (fault == 4) sums[0] += static_cast<float>(INT32_MAX - 4 + static_cast<int>(elements));
  }
  if (fault == 5 && threadIdx.x >= 32) return;
  __syncthreads();
}

void block_sum(Tensor x, Tensor sums, int64_t fault) {
  const int64_t elements = x.sizes()[0];
  launch(block_sum_kernel, (elements + kBlock - 1) / kBlock, kBlock, x, data_of<const float>(x),
         data_of<float>(sums), elements, fault);
}

}  // namespace

FASTIQA_REGISTER(block_sum, "")

}  // namespace fastiqa
