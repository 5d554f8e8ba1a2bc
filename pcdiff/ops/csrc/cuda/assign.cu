#include "kernels.h"
#include "launch.h"

namespace pcdiff {
namespace gpu {
namespace {

constexpr int kThreads = 256;

// Dynamic shared memory that a block may have on the current device, beside `kept` bytes of its own.
int64_t shared_memory(int64_t kept) {
  int device = 0, bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess) return 0;
  return bytes - kept;
}

template <class C>
bool fits_shared(int64_t n, int dim) {
  return dim <= kPackedDims &&
         auction_bytes<C>(n, dim) <= shared_memory(static_cast<int64_t>(sizeof(AuctionShared<C, kThreads>)));
}

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

template <class T, class C>
void launch_in(const AssignArgs<T>& a, Stream stream) {
  if (fits_shared<C>(a.n, a.dim)) {
    const size_t bytes = static_cast<size_t>(auction_bytes<C>(a.n, a.dim));
    const auto kernel = assign_kernel<T, C, true, true>;
    // A refusal shows as the launch's error.
    (void)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
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
  return fits_shared<double>(n, dim) ? 0 : workspaces(tasks) * auction_bytes<double>(n, dim);
}

template <class T>
void launch_assign(AssignArgs<T> a, Stream stream) {
  if (a.tasks == 0) return;
  a.memory_stride = auction_bytes<double>(a.n, a.dim);
  a.first_try = true;
  launch_in<T, T>(a, stream);
  if (sizeof(T) == sizeof(double)) return;
  a.first_try = false;
  launch_in<T, double>(a, stream);
}

template int64_t assign_workspace<float>(int64_t, int64_t, int);
template int64_t assign_workspace<double>(int64_t, int64_t, int);
template void launch_assign<float>(AssignArgs<float>, Stream);
template void launch_assign<double>(AssignArgs<double>, Stream);

}  // namespace gpu
}  // namespace pcdiff
