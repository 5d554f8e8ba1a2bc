// Each point's voxel, and how many points share it.
#include <cmath>
#include <tuple>
#include <vector>

#include "glue.h"

namespace pcdiff {
namespace {

// Voxels of a grid fewer than 2^31: counts and indices of one fit 32 bits.
constexpr int64_t kMostResolution = 1024;

template <class T>
void voxels_typed(const Tensor& coords, int64_t batch, int64_t n, int64_t resolution, const Lengths& lengths,
                  int64_t* index, int64_t* count) {
  const T top = static_cast<T>(resolution - 1);
  parallel(batch, 1, [&](int64_t first, int64_t last) {
    std::vector<int32_t> counts(static_cast<size_t>(resolution * resolution * resolution));
    for (int64_t b = first; b < last; ++b) {
      const T* const cloud = read<T>(coords) + b * n * 3;
      for (int64_t i = 0; i < n; ++i) {
        const int64_t at = b * n + i;
        index[at] = count[at] = 0;
        if (i >= lengths[b]) continue;
        for (int64_t d = 0; d < 3; ++d) {
          const T c = cloud[i * 3 + d];
          // What is not a number fails too.
          STD_TORCH_CHECK(c >= T{0} && c <= top, "pcdiff: coords must be in 0..", resolution - 1, ", got ", c);
          // Half to even, as torch.round: the rounding mode that every process starts with.
          index[at] = index[at] * resolution + static_cast<int64_t>(std::nearbyint(c));
        }
        ++counts[static_cast<size_t>(index[at])];
      }
      for (int64_t i = 0; i < lengths[b]; ++i) {
        count[b * n + i] = counts[static_cast<size_t>(index[b * n + i])];
      }
      // Only what was counted: a fine grid has many more voxels than the cloud has points.
      for (int64_t i = 0; i < lengths[b]; ++i) counts[static_cast<size_t>(index[b * n + i])] = 0;
    }
  });
}

std::tuple<Tensor, Tensor> voxels(const Tensor& coords, int64_t resolution, const OptionalTensor& lengths) {
  check_clouds(coords, "coords");
  STD_TORCH_CHECK(coords.size(2) == 3, "pcdiff: coords must have 3 coordinates a point, got ", coords.size(2));
  STD_TORCH_CHECK(resolution >= 1 && resolution <= kMostResolution, "pcdiff: resolution must be in 1..",
                  kMostResolution, ", got ", resolution);
  const int64_t batch = coords.size(0), n = coords.size(1);
  const Lengths counted(lengths, batch, n, "lengths");
  const Tensor contiguous = stable::contiguous(coords);
  Tensor index = stable::new_empty(coords, {batch, n}, ScalarType::Long);
  Tensor count = stable::new_empty(coords, {batch, n}, ScalarType::Long);
  by_dtype(coords, [&](auto zero) {
    using T = decltype(zero);
    voxels_typed<T>(contiguous, batch, n, resolution, counted, write<int64_t>(index), write<int64_t>(count));
  });
  return {index, count};
}

}  // namespace
}  // namespace pcdiff

STABLE_TORCH_LIBRARY_FRAGMENT(pcdiff, m) {
  m.def("voxels(Tensor coords, int resolution, Tensor? lengths) -> (Tensor index, Tensor count)");
}

STABLE_TORCH_LIBRARY_IMPL(pcdiff, CPU, m) { m.impl("voxels", TORCH_BOX(&pcdiff::voxels)); }
