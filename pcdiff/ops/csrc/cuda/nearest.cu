#include "kernels.h"
#include "launch.h"

namespace pcdiff {
namespace gpu {
namespace {

constexpr int kThreads = 256;

template <class T, int kQueries>
__global__ void __launch_bounds__(kThreads) nearest_kernel(const NearestArgs<T> a, int64_t tasks) {
  __shared__ NearestShared<T> shared;
  const Block<kThreads> block;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) nearest_body<T, kQueries>(block, shared, a, task);
}

template <class T>
__global__ void __launch_bounds__(kThreads) nearest_general_kernel(const NearestArgs<T> a, int64_t tasks) {
  const Block<kThreads> block;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) nearest_general_body(block, a, task);
}

}  // namespace

template <class T>
void launch_nearest(const NearestArgs<T>& a, Stream stream) {
  if (a.batch == 0) return;
  if (a.dim > kPackedDims) {
    const int64_t tasks = a.batch * chunks_of(a.n, kThreads);
    nearest_general_kernel<T><<<grid(tasks), kThreads, 0, stream>>>(a, tasks);
    return;
  }
  // Four queries a thread where that still leaves two blocks to each multiprocessor; else rather more blocks.
  const int64_t tasks = a.batch * chunks_of(a.n, kThreads * 4);
  if (tasks >= 2 * multiprocessors()) {
    nearest_kernel<T, 4><<<grid(tasks), kThreads, 0, stream>>>(a, tasks);
  } else {
    const int64_t small = a.batch * chunks_of(a.n, kThreads);
    nearest_kernel<T, 1><<<grid(small), kThreads, 0, stream>>>(a, small);
  }
}

template void launch_nearest<float>(const NearestArgs<float>&, Stream);
template void launch_nearest<double>(const NearestArgs<double>&, Stream);

}  // namespace gpu
}  // namespace pcdiff
