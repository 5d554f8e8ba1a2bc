#include "kernels.h"
#include "launch.h"

namespace pcdiff {
namespace gpu {
namespace {

constexpr int kThreads = 128;

template <class T, bool kPacked>
__global__ void __launch_bounds__(kThreads) softmin_kernel(const SoftminArgs<T> a, int64_t tasks) {
  __shared__ TransportShared<T, kThreads> shared;
  const Block<kThreads> block;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) softmin_body<T, kPacked>(block, shared, a, task);
}

template <class T>
__global__ void __launch_bounds__(kThreads) match_start_kernel(const MatchArgs<T> a) {
  const Block<kThreads> block;
  for (int64_t b = blockIdx.x; b < a.batch; b += gridDim.x) match_start_body(block, a, b);
}

template <class T, bool kPacked, MatchStep kStep>
__global__ void __launch_bounds__(kThreads) match_kernel(const MatchArgs<T> a, int step, int64_t tasks) {
  __shared__ TransportShared<T, kThreads> shared;
  const Block<kThreads> block;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    match_body<T, kPacked, kStep>(block, shared, a, step, task);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) match_cost_kernel(const MatchArgs<T> a) {
  __shared__ TransportShared<T, kThreads> shared;
  const Block<kThreads> block;
  for (int64_t b = blockIdx.x; b < a.batch; b += gridDim.x) match_cost_body(block, shared, a, b);
}

template <class T, bool kPacked>
void launch_match_dim(const MatchArgs<T>& a, Stream stream) {
  const int64_t x_tasks = a.batch * chunks_of(a.n, kThreads), y_tasks = a.batch * chunks_of(a.m, kThreads);
  match_start_kernel<T><<<grid(a.batch), kThreads, 0, stream>>>(a);
  for (int step = 0; step < a.levels; ++step) {
    match_kernel<T, kPacked, MatchStep::kOffer><<<grid(x_tasks), kThreads, 0, stream>>>(a, step, x_tasks);
    match_kernel<T, kPacked, MatchStep::kAccept><<<grid(y_tasks), kThreads, 0, stream>>>(a, step, y_tasks);
    match_kernel<T, kPacked, MatchStep::kBook><<<grid(x_tasks), kThreads, 0, stream>>>(a, step, x_tasks);
  }
  match_cost_kernel<T><<<grid(a.batch), kThreads, 0, stream>>>(a);
}

}  // namespace

template <class T>
void launch_softmin(const SoftminArgs<T>& a, Stream stream) {
  const int64_t tasks = a.batch * chunks_of(a.n, kThreads);
  if (tasks == 0) return;
  if (a.dim <= kPackedDims) {
    softmin_kernel<T, true><<<grid(tasks), kThreads, 0, stream>>>(a, tasks);
  } else {
    softmin_kernel<T, false><<<grid(tasks), kThreads, 0, stream>>>(a, tasks);
  }
}

template <class T>
void launch_match(const MatchArgs<T>& a, Stream stream) {
  if (a.batch == 0) return;
  if (a.dim <= kPackedDims) {
    launch_match_dim<T, true>(a, stream);
  } else {
    launch_match_dim<T, false>(a, stream);
  }
}

template void launch_softmin<float>(const SoftminArgs<float>&, Stream);
template void launch_softmin<double>(const SoftminArgs<double>&, Stream);
template void launch_match<float>(const MatchArgs<float>&, Stream);
template void launch_match<double>(const MatchArgs<double>&, Stream);

}  // namespace gpu
}  // namespace pcdiff
