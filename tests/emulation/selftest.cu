// A block reduction for the emulation itself: barriers, shared memory and shuffles must work, and each of the faults
// below, compiled in with -DFASTIQA_FAULT=<n>, must be found by its sanitizer.
//
//   1  a left-out __syncthreads            thread sanitizer
//   2  a write one past the end            address sanitizer
//   3  a 16-byte access off its alignment  undefined-behaviour sanitizer
//   4  a signed overflow                   undefined-behaviour sanitizer
//   5  a return before the last barrier    the emulation
#include "elementwise.h"

#if !defined(FASTIQA_FAULT)
#define FASTIQA_FAULT 0
#endif

namespace fastiqa {
namespace {

constexpr int kBlock = 64;

__global__ void block_sum_kernel(const float* x, float* sums, int64_t elements) {
  __shared__ float of_warp[kBlock / 32];
  const int64_t i = global_thread<int64_t>();
  float sum = i < elements ? x[i] : 0.0f;
  for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
#if FASTIQA_FAULT != 1
  __syncthreads();
#endif
  if (threadIdx.x == 0) sums[blockIdx.x + (FASTIQA_FAULT == 2 ? gridDim.x : 0)] = of_warp[0] + of_warp[1];
#if FASTIQA_FAULT == 3
  if (threadIdx.x == 0) sums[0] += Pack<float, 4>::load(x + 1).element[0];
#elif FASTIQA_FAULT == 4
  if (threadIdx.x == 0) sums[0] += static_cast<float>(INT32_MAX - 4 + static_cast<int>(elements));
#elif FASTIQA_FAULT == 5
  if (threadIdx.x >= 32) return;
#endif
  __syncthreads();
}

void block_sum(Tensor x, Tensor sums) {
  const int64_t elements = x.sizes()[0];
  launch(block_sum_kernel, (elements + kBlock - 1) / kBlock, kBlock, x, static_cast<const float*>(x.data_ptr()),
         static_cast<float*>(sums.data_ptr()), elements);
}

}  // namespace

FASTIQA_REGISTER(block_sum, "")

}  // namespace fastiqa
