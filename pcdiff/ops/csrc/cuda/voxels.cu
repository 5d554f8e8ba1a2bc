#include "kernels.h"
#include "launch.h"

namespace pcdiff {
namespace gpu {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads) place_kernel(const VoxelArgs<T> a, int64_t tasks) {
  const Block<kThreads> block;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) place_body(block, a, task);
}

template <class T>
__global__ void __launch_bounds__(kThreads) count_kernel(const VoxelArgs<T> a, int64_t tasks) {
  const Block<kThreads> block;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) count_body(block, a, task);
}

}  // namespace

template <class T>
void launch_voxels(const VoxelArgs<T>& a, Stream stream) {
  const int64_t tasks = chunks_of(a.batch * a.n, kThreads);
  if (tasks == 0) return;
  place_kernel<T><<<grid(tasks), kThreads, 0, stream>>>(a, tasks);
  count_kernel<T><<<grid(tasks), kThreads, 0, stream>>>(a, tasks);
}

template void launch_voxels<float>(const VoxelArgs<float>&, Stream);
template void launch_voxels<double>(const VoxelArgs<double>&, Stream);

}  // namespace gpu
}  // namespace pcdiff
