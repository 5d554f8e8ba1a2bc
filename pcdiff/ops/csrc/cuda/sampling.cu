#include "kernels.h"
#include "launch.h"

namespace pcdiff {
namespace gpu {
namespace {

constexpr int kThreads = 512;

template <class T, bool kLegacy>
__global__ void __launch_bounds__(kThreads) farthest_kernel(const FarthestArgs<T> a) {
  __shared__ FarthestShared<T, kThreads> shared;
  const Block<kThreads> block;
  for (int64_t b = blockIdx.x; b < a.batch; b += gridDim.x) farthest_body<T, kLegacy>(block, shared, a, b);
}

}  // namespace

template <class T>
void launch_farthest(const FarthestArgs<T>& a, bool legacy, Stream stream) {
  if (a.batch == 0) return;
  if (legacy) {
    farthest_kernel<T, true><<<grid(a.batch), kThreads, 0, stream>>>(a);
  } else {
    farthest_kernel<T, false><<<grid(a.batch), kThreads, 0, stream>>>(a);
  }
}

template void launch_farthest<float>(const FarthestArgs<float>&, bool, Stream);
template void launch_farthest<double>(const FarthestArgs<double>&, bool, Stream);

}  // namespace gpu
}  // namespace pcdiff
