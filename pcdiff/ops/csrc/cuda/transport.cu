#include "kernels.h"
#include "launch.h"

namespace pcdiff {
namespace gpu {
namespace {

constexpr int kSoftminThreads = 128;
constexpr int kMatchThreads = 512;

template <class T, bool kPacked>
__global__ void __launch_bounds__(kSoftminThreads) softmin_kernel(const SoftminArgs<T> a, int64_t tasks) {
  __shared__ TransportShared<T, kSoftminThreads> shared;
  const Block<kSoftminThreads> block;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) softmin_body<T, kPacked>(block, shared, a, task);
}

template <class T, bool kPacked>
__global__ void __launch_bounds__(kMatchThreads) match_kernel(const MatchArgs<T> a) {
  __shared__ TransportShared<T, kMatchThreads> shared;
  const Block<kMatchThreads> block;
  for (int64_t b = blockIdx.x; b < a.batch; b += gridDim.x) match_body<T, kPacked>(block, shared, a, b);
}

}  // namespace

template <class T>
void launch_softmin(const SoftminArgs<T>& a, Stream stream) {
  const int64_t tasks = a.batch * chunks_of(a.n, kSoftminThreads);
  if (tasks == 0) return;
  if (a.dim <= kPackedDims) {
    softmin_kernel<T, true><<<grid(tasks), kSoftminThreads, 0, stream>>>(a, tasks);
  } else {
    softmin_kernel<T, false><<<grid(tasks), kSoftminThreads, 0, stream>>>(a, tasks);
  }
}

template <class T>
void launch_match(const MatchArgs<T>& a, Stream stream) {
  if (a.batch == 0) return;
  if (a.dim <= kPackedDims) {
    match_kernel<T, true><<<grid(a.batch), kMatchThreads, 0, stream>>>(a);
  } else {
    match_kernel<T, false><<<grid(a.batch), kMatchThreads, 0, stream>>>(a);
  }
}

template void launch_softmin<float>(const SoftminArgs<float>&, Stream);
template void launch_softmin<double>(const SoftminArgs<double>&, Stream);
template void launch_match<float>(const MatchArgs<float>&, Stream);
template void launch_match<double>(const MatchArgs<double>&, Stream);

}  // namespace gpu
}  // namespace pcdiff
