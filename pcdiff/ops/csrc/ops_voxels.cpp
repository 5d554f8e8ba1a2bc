// Each point's voxel, how many points share it, and their mean where no derivative is asked for.
#include <algorithm>
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

struct Means {
  int64_t batch, n, channels, cells;
  const int64_t* index;  // batch x n
  const int64_t* count;  // batch x n; 0 where there is no point
};

// Terms are divided and added in the order of the points, as Python does it for a derivative: the same bits.
template <class T>
void voxel_means_typed(const T* features, const Means& m, T* out) {
  // Where there are few clouds, each is cut into ranges of voxels: every thread looks through all of its points.
  const int64_t parts = m.batch >= 8 ? 1 : 8;
  parallel(m.batch * parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t b = task / parts, part = task % parts;
      const int64_t begin = m.cells * part / parts, end = m.cells * (part + 1) / parts;
      T* const grid = out + b * m.cells * m.channels;
      std::fill(grid + begin * m.channels, grid + end * m.channels, T{0});
      for (int64_t at = b * m.n; at < (b + 1) * m.n; ++at) {
        if (m.count[at] == 0 || m.index[at] < begin || m.index[at] >= end) continue;
        const T shared = static_cast<T>(m.count[at]);
        const T* const row = features + at * m.channels;
        T* const voxel = grid + m.index[at] * m.channels;
        for (int64_t c = 0; c < m.channels; ++c) voxel[c] += row[c] / shared;
      }
    }
  });
}

Tensor voxel_means(const Tensor& features, const Tensor& index, const Tensor& count, int64_t resolution) {
  check_clouds(features, "features");
  STD_TORCH_CHECK(resolution >= 1 && resolution <= kMostResolution, "pcdiff: resolution must be in 1..",
                  kMostResolution, ", got ", resolution);
  const auto check_integers = [&](const Tensor& values, const char* name) {
    STD_TORCH_CHECK(values.dim() == 2 && values.size(0) == features.size(0) && values.size(1) == features.size(1) &&
                        values.scalar_type() == ScalarType::Long,
                    "pcdiff: ", name, " must be int64 with one value for each row of features");
    return stable::contiguous(values);
  };
  const Tensor at = check_integers(index, "index"), shared = check_integers(count, "count");
  const Means means{features.size(0),  features.size(1),     features.size(2), resolution * resolution * resolution,
                    read<int64_t>(at), read<int64_t>(shared)};
  for (int64_t i = 0; i < means.batch * means.n; ++i) {
    STD_TORCH_CHECK(means.index[i] >= 0 && means.index[i] < means.cells, "pcdiff: index must be in 0..",
                    means.cells - 1, ", got ", means.index[i]);
  }
  const Tensor contiguous = stable::contiguous(features);
  Tensor out = stable::new_empty(features, {means.batch, means.cells, means.channels});
  by_dtype(features, [&](auto zero) {
    using T = decltype(zero);
    voxel_means_typed<T>(read<T>(contiguous), means, write<T>(out));
  });
  return out;
}

}  // namespace
}  // namespace pcdiff

STABLE_TORCH_LIBRARY_FRAGMENT(pcdiff, m) {
  m.def("voxel_means(Tensor features, Tensor index, Tensor count, int resolution) -> Tensor");
  m.def("voxels(Tensor coords, int resolution, Tensor? lengths) -> (Tensor index, Tensor count)");
}

STABLE_TORCH_LIBRARY_IMPL(pcdiff, CPU, m) {
  m.impl("voxel_means", TORCH_BOX(&pcdiff::voxel_means));
  m.impl("voxels", TORCH_BOX(&pcdiff::voxels));
}
