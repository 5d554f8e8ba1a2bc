#include "kernels.h"
#include "launch.h"

namespace pcdiff {
namespace gpu {
namespace {

constexpr int kThreads = 128;

template <class T, class List, bool kPacked>
__global__ void __launch_bounds__(kThreads) knn_kernel(const KnnArgs<T> a, int64_t tasks) {
  __shared__ NearestShared<T> shared;
  const Block<kThreads> block;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) knn_body<T, List, kPacked>(block, shared, a, task);
}

}  // namespace

template <class T>
void launch_knn(const KnnArgs<T>& a, Stream stream) {
  const int64_t tasks = a.batch * chunks_of(a.n, kThreads);
  if (tasks == 0) return;
  const unsigned blocks = grid(tasks);
  if (a.dim > kPackedDims) {
    knn_kernel<T, RowList<T>, false><<<blocks, kThreads, 0, stream>>>(a, tasks);
  } else if (a.k > kKnnSlots) {
    knn_kernel<T, RowList<T>, true><<<blocks, kThreads, 0, stream>>>(a, tasks);
  } else {
    knn_kernel<T, SlotList<T>, true><<<blocks, kThreads, 0, stream>>>(a, tasks);
  }
}

template void launch_knn<float>(const KnnArgs<float>&, Stream);
template void launch_knn<double>(const KnnArgs<double>&, Stream);

}  // namespace gpu
}  // namespace pcdiff
