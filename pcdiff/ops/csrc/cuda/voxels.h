// Each point's voxel, and how many points share it: one point a thread, in two launches, since a count is known only
// when every point has been placed.
#pragma once

#include "points.h"

namespace pcdiff {
namespace gpu {

template <class T>
struct VoxelArgs {
  const T* coords;  // batch x n x 3
  int64_t batch, n, resolution;
  const int64_t* lengths;  // batch, or null
  int* counts;             // batch x resolution^3, scratch, zeros
  int64_t* index;          // batch x n
  int64_t* count;          // batch x n
};

// Half to even. What is outside of the grid comes to its edge, NaN to 0: no index may leave the memory.
template <class T>
PCDIFF_DEVICE int64_t voxel_along(T coordinate, int64_t resolution) {
  const T top = static_cast<T>(resolution - 1);
  const T inside = coordinate > T{0} ? (coordinate < top ? coordinate : top) : T{0};
  return static_cast<int64_t>(rounded(inside));
}

// The points [task * kThreads, ...) of all clouds in a row.
template <class T, class B>
PCDIFF_DEVICE void place_body(const B& block, const VoxelArgs<T>& a, int64_t task) {
  block.each([&](int t) {
    const int64_t at = task * B::kSize + t;
    if (at >= a.batch * a.n) return;
    const int64_t b = at / a.n;
    if (at % a.n >= length_of(a.lengths, b, a.n)) {
      a.index[at] = 0;
      return;
    }
    int64_t voxel = 0;
    for (int d = 0; d < 3; ++d) voxel = voxel * a.resolution + voxel_along(a.coords[at * 3 + d], a.resolution);
    a.index[at] = voxel;
    atomic_add(a.counts + b * a.resolution * a.resolution * a.resolution + voxel, 1);
  });
}

template <class T, class B>
PCDIFF_DEVICE void count_body(const B& block, const VoxelArgs<T>& a, int64_t task) {
  block.each([&](int t) {
    const int64_t at = task * B::kSize + t;
    if (at >= a.batch * a.n) return;
    const int64_t b = at / a.n;
    const int* const counts = a.counts + b * a.resolution * a.resolution * a.resolution;
    a.count[at] = at % a.n < length_of(a.lengths, b, a.n) ? counts[a.index[at]] : 0;
  });
}

}  // namespace gpu
}  // namespace pcdiff
