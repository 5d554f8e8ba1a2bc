#include "kernels.h"
#include "launch.h"

namespace pcdiff {
namespace gpu {
namespace {

constexpr int kThreads = 128;

template <class T, bool kPacked>
__global__ void __launch_bounds__(kThreads) ball_kernel(const BallArgs<T> a, int64_t tasks) {
  __shared__ NearestShared<T> shared;
  const Block<kThreads> block;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) ball_body<T, kPacked>(block, shared, a, task);
}

}  // namespace

template <class T>
void launch_balls(const BallArgs<T>& a, Stream stream) {
  const int64_t tasks = a.batch * chunks_of(a.n, kThreads);
  if (tasks == 0) return;
  if (a.dim > kPackedDims) {
    ball_kernel<T, false><<<grid(tasks), kThreads, 0, stream>>>(a, tasks);
  } else {
    ball_kernel<T, true><<<grid(tasks), kThreads, 0, stream>>>(a, tasks);
  }
}

template void launch_balls<float>(const BallArgs<float>&, Stream);
template void launch_balls<double>(const BallArgs<double>&, Stream);

}  // namespace gpu
}  // namespace pcdiff
