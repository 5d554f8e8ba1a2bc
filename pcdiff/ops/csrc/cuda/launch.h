// Launching: a kernel is given tasks, more of them than a grid may have blocks if need be.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace pcdiff {
namespace gpu {

// Blocks take the tasks in turn, so any number of tasks fits; the CUDA limit on a grid is 2^31 - 1.
constexpr int64_t kMostBlocks = int64_t{1} << 24;

inline unsigned grid(int64_t tasks) { return static_cast<unsigned>(tasks < kMostBlocks ? tasks : kMostBlocks); }

// Multiprocessors of the current device.
inline int64_t multiprocessors() {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) return 1;
  return count;
}

}  // namespace gpu
}  // namespace pcdiff
