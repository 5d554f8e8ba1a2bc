// The first points within a radius. One center a thread, which writes straight to its row of the output; the points
// come to shared memory in tiles, in ascending index.
#pragma once

#include "nearest.h"

namespace pcdiff {
namespace gpu {

template <class T>
struct BallArgs {
  const T* x;  // centers, batch x n x dim
  const T* y;  // batch x m x dim
  int64_t batch, n, m;
  int dim;
  T square;  // of the radius; nearer than its root is inside
  int64_t k;
  const int64_t* x_lengths;  // batch, or null
  const int64_t* y_lengths;  // batch, or null
  int64_t* out;              // batch x n x k, ascending; the first found fills up the rest, 0 where there is none
};

// The centers [chunk * kThreads, ...) of cloud `task / chunks`. With kPacked the points of y come through shared
// memory (dim <= 3), else from global memory.
template <class T, bool kPacked, class B>
PCDIFF_DEVICE void ball_body(const B& block, NearestShared<T>& shared, const BallArgs<T>& a, int64_t task) {
  struct Center {
    Packed<T> point;
    int64_t found;
  };
  const int64_t chunks = chunks_of(a.n, B::kSize);
  const int64_t b = task / chunks, first = task % chunks * B::kSize;
  const T* const x = a.x + b * a.n * a.dim;
  const T* const y = a.y + b * a.m * a.dim;
  const int64_t n = length_of(a.x_lengths, b, a.n), m = length_of(a.y_lengths, b, a.m);

  typename B::template PerThread<Center> centers;
  block.each([&](int t) {
    if (kPacked) centers[t].point = packed(x + least(first + t, a.n - 1) * a.dim, a.dim, T{0});
    centers[t].found = 0;
  });
  for (int64_t start = 0; start < m; start += kNearestTile) {
    const int count = static_cast<int>(least(kNearestTile, m - start));
    if (kPacked) {
      block.each([&](int t) {
        for (int j = t; j < count; j += B::kSize) shared.tile[j] = packed(y + (start + j) * a.dim, a.dim, T{0});
      });
    }
    block.each([&](int t) {
      const int64_t i = first + t;
      if (i >= n) return;
      Center& own = centers[t];
      int64_t* const out = a.out + (b * a.n + i) * a.k;
      for (int j = 0; j < count && own.found < a.k; ++j) {
        const T d = kPacked ? squared_distance(own.point, shared.tile[j])
                            : squared_distance(x + i * a.dim, y + (start + j) * a.dim, a.dim);
        if (d < a.square) out[own.found++] = start + j;
      }
    });
  }
  block.each([&](int t) {
    const int64_t i = first + t;
    if (i >= a.n) return;
    int64_t* const out = a.out + (b * a.n + i) * a.k;
    const int64_t found = i < n ? centers[t].found : 0;
    const int64_t filling = found > 0 ? out[0] : 0;
    for (int64_t s = found; s < a.k; ++s) out[s] = filling;
  });
}

}  // namespace gpu
}  // namespace pcdiff
