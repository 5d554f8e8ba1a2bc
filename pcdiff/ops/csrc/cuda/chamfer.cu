#include "kernels.h"
#include "launch.h"

namespace pcdiff {
namespace gpu {
namespace {

constexpr int kThreads = 256;

// How many blocks a multiprocessor holds is given, so that no register is spilled to hold more.
template <class T, int kQueries>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 4 ? 4 : 2)
    chamfer_kernel(const ChamferArgs<T> a, int64_t tasks) {
  __shared__ ChamferShared<T, kThreads> shared;
  const Block<kThreads> block;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    chamfer_body<T, kQueries>(block, shared, a, task);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) means_kernel(const MeansArgs<T> a, int64_t tasks) {
  __shared__ MeansShared<kThreads> shared;
  const Block<kThreads> block;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) means_body(block, shared, a, task);
}

}  // namespace

template <class T>
bool fits_chamfer(int dim, int64_t m) {
  return dim <= kPackedDims && m <= most_columns<T>();
}

template <class T>
void launch_chamfer(const ChamferArgs<T>& a, Stream stream) {
  const int64_t tasks = a.rows * a.columns;
  if (tasks == 0) return;
  // The fewest rows a thread that cover x in one pass: those past its end would be computed for nothing.
  const auto kernel = a.n <= kThreads       ? chamfer_kernel<T, 1>
                      : a.n <= 2 * kThreads ? chamfer_kernel<T, 2>
                      : a.n <= 4 * kThreads ? chamfer_kernel<T, 4>
                                            : chamfer_kernel<T, 8>;
  kernel<<<grid(tasks), kThreads, 0, stream>>>(a, tasks);
}

template <class T>
void launch_means(const MeansArgs<T>& a, Stream stream) {
  if (a.pairs > 0) means_kernel<<<grid(a.pairs), kThreads, 0, stream>>>(a, a.pairs);
}

template bool fits_chamfer<float>(int, int64_t);
template bool fits_chamfer<double>(int, int64_t);
template void launch_chamfer<float>(const ChamferArgs<float>&, Stream);
template void launch_chamfer<double>(const ChamferArgs<double>&, Stream);
template void launch_means<float>(const MeansArgs<float>&, Stream);
template void launch_means<double>(const MeansArgs<double>&, Stream);

}  // namespace gpu
}  // namespace pcdiff
