#include "kernels.h"
#include "launch.h"

namespace pcdiff {
namespace gpu {
namespace {

constexpr int kThreads = 256;

// Blocks that get a workspace in global memory each; they take the tasks in turn.
int64_t workspaces(int64_t tasks) {
  const int64_t most = 2 * multiprocessors();
  return tasks < most ? tasks : most;
}

// Float32 leaves room for two blocks on a multiprocessor: while one waits for its threads, the other works.
template <class T, class C, bool kPacked, bool kInShared>
__global__ void __launch_bounds__(kThreads, kInShared && sizeof(C) == 4 ? 2 : 1) assign_kernel(const AssignArgs<T> a) {
  extern __shared__ uint4 dynamic[];  // the type aligns it for vector loads
  __shared__ AuctionShared<C, kThreads> shared;
  const Block<kThreads> block;
  unsigned char* const memory =
      kInShared ? reinterpret_cast<unsigned char*>(dynamic) : a.memory + blockIdx.x * a.memory_stride;
  for (int64_t task = blockIdx.x; task < a.tasks; task += gridDim.x) {
    assign_body<T, C, kPacked>(block, shared, memory, a, task);
  }
}

// Bytes of shared memory for a block's workspace on the current device, beside what the kernel keeps of its own.
template <class T, class C>
int64_t workspace_room() {
  int device = 0, bytes = 0;
  cudaFuncAttributes own;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess) return 0;
  if (cudaFuncGetAttributes(&own, assign_kernel<T, C, true, true>) != cudaSuccess) return 0;
  return bytes - static_cast<int64_t>(own.sharedSizeBytes);
}

template <class T, class C>
bool fits_shared(int64_t n, int dim) {
  return dim <= kPackedDims && auction_bytes<C>(n, dim) <= workspace_room<T, C>();
}

template <class T, class C>
void launch_in(const AssignArgs<T>& a, Stream stream) {
  if (fits_shared<T, C>(a.n, a.dim)) {
    const size_t bytes = static_cast<size_t>(auction_bytes<C>(a.n, a.dim));
    const auto kernel = assign_kernel<T, C, true, true>;
    // The limit belongs to the kernel, not to the launch: were it this launch's bytes, another host thread could lower
    // it in between. A refusal shows as the launch's error.
    (void)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(workspace_room<T, C>()));
    kernel<<<grid(a.tasks), kThreads, bytes, stream>>>(a);
  } else if (a.dim <= kPackedDims) {
    assign_kernel<T, C, true, false><<<grid(workspaces(a.tasks)), kThreads, 0, stream>>>(a);
  } else {
    assign_kernel<T, C, false, false><<<grid(workspaces(a.tasks)), kThreads, 0, stream>>>(a);
  }
}

}  // namespace

template <class T>
int64_t assign_workspace(int64_t tasks, int64_t n, int dim) {
  return fits_shared<T, double>(n, dim) ? 0 : workspaces(tasks) * auction_bytes<double>(n, dim);
}

template <class T>
void launch_assign(AssignArgs<T> a, Stream stream) {
  if (a.tasks == 0) return;
  a.memory_stride = auction_bytes<double>(a.n, a.dim);
  a.first_try = true;
  launch_in<T, T>(a, stream);
  a.first_try = false;
  launch_in<T, double>(a, stream);
}

template int64_t assign_workspace<float>(int64_t, int64_t, int);
template int64_t assign_workspace<double>(int64_t, int64_t, int);
template void launch_assign<float>(AssignArgs<float>, Stream);
template void launch_assign<double>(AssignArgs<double>, Stream);

}  // namespace gpu
}  // namespace pcdiff
