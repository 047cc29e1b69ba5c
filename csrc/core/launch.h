// Launching a kernel: on the tensor's device and PyTorch's current stream under nvcc; emulate/emulate.h runs it on the
// CPU. Every launcher goes through `launch`, so both compilers share every other line.
#pragma once

#include "core/tensor.h"

#if !defined(FASTIQA_EMULATE)

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

namespace fastiqa {

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, const Tensor& on, const Arguments&... arguments) {
  if (blocks == 0) return;
  FASTIQA_CHECK(blocks <= INT32_MAX, "fastiqa: a grid of more than 2^31 - 1 blocks");
  const int32_t device = on.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  kernel<<<static_cast<unsigned>(blocks), threads, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace fastiqa

#endif

namespace fastiqa {

/// The index of this thread in the whole grid, widened before the multiplication.
template <class Index>
__device__ Index global_thread() {
  return static_cast<Index>(blockIdx.x) * static_cast<Index>(blockDim.x) + static_cast<Index>(threadIdx.x);
}

}  // namespace fastiqa
