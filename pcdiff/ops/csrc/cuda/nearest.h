// Nearest neighbors. A block takes kThreads x kQueries queries of one cloud, a few in each thread's registers, and
// walks over the other cloud in tiles that its threads bring to shared memory together.
//
// With four queries a thread, one broadcast load from shared memory serves 4 x 11 arithmetic instructions.
#pragma once

#include "points.h"

namespace pcdiff {
namespace gpu {

template <class T>
struct NearestArgs {
  const T* x;  // clouds, n x dim each
  const T* y;  // clouds, m x dim each
  int64_t batch, n, m;
  int64_t x_stride;  // elements from one cloud of x to the next; 0 compares the same one with all of y
  int64_t y_stride;  // as x_stride
  int dim;
  const int64_t* x_lengths;  // batch, or null
  const int64_t* y_lengths;  // batch, or null
  T* squared_distance;       // batch x n
  int64_t* index;            // batch x n, or null
};

constexpr int kNearestTile = 512;

template <class T>
struct NearestShared {
  Packed<T> tile[kNearestTile];
};

// The queries [chunk * kThreads * kQueries, ...) of cloud `task / chunks`; dim <= 3.
template <class T, int kQueries, class B>
PCDIFF_DEVICE void nearest_body(const B& block, NearestShared<T>& shared, const NearestArgs<T>& a, int64_t task) {
  struct Queries {
    Packed<T> point[kQueries];
    T best[kQueries];
    int index[kQueries];
  };
  const int64_t chunks = chunks_of(a.n, int64_t{B::kSize} * kQueries);
  const int64_t b = task / chunks, first = task % chunks * B::kSize * kQueries;
  const T* const x = a.x + b * a.x_stride;
  const T* const y = a.y + b * a.y_stride;
  const int64_t n = length_of(a.x_lengths, b, a.n), m = length_of(a.y_lengths, b, a.m);

  typename B::template PerThread<Queries> queries;
  block.each([&](int t) {
    Queries& own = queries[t];
    PCDIFF_UNROLL
    for (int q = 0; q < kQueries; ++q) {
      const int64_t i = first + q * B::kSize + t;
      own.point[q] = packed(x + least(i, a.n - 1) * a.dim, a.dim, T{0});
      own.best[q] = infinity<T>();
      own.index[q] = 0;
    }
  });
  for (int64_t start = 0; start < m; start += kNearestTile) {
    const int count = static_cast<int>(least(kNearestTile, m - start));
    block.each([&](int t) {
      for (int j = t; j < count; j += B::kSize) shared.tile[j] = packed(y + (start + j) * a.dim, a.dim, T{0});
    });
    block.each([&](int t) {
      Queries& own = queries[t];
      const int offset = static_cast<int>(start);
      PCDIFF_UNROLL_BY_4
      for (int j = 0; j < count; ++j) {
        const Packed<T> point = shared.tile[j];
        PCDIFF_UNROLL
        for (int q = 0; q < kQueries; ++q) {
          const T d = squared_distance(own.point[q], point);
          // Strictly closer: of equals the first stays.
          if (d < own.best[q]) {
            own.best[q] = d;
            own.index[q] = offset + j;
          }
        }
      }
    });
  }
  block.each([&](int t) {
    Queries& own = queries[t];
    PCDIFF_UNROLL
    for (int q = 0; q < kQueries; ++q) {
      const int64_t i = first + q * B::kSize + t;
      if (i >= a.n) continue;
      const int64_t place = b * a.n + i;
      const bool real = i < n;
      a.squared_distance[place] = real ? own.best[q] + not_finite(own.point[q].at, kPackedDims) : T{0};
      if (a.index != nullptr) a.index[place] = real ? own.index[q] : 0;
    }
  });
}

// Any dimension: one query a thread. All threads read the same points of y at the same time, which the cache
// broadcasts; several at a time, so that a coordinate of x is read once for all of them.
template <class T, class B>
PCDIFF_DEVICE void nearest_general_body(const B& block, const NearestArgs<T>& a, int64_t task) {
  constexpr int kAtOnce = 8;
  const int64_t chunks = chunks_of(a.n, B::kSize);
  const int64_t b = task / chunks, first = task % chunks * B::kSize;
  const T* const y = a.y + b * a.y_stride;
  const int64_t n = length_of(a.x_lengths, b, a.n), m = length_of(a.y_lengths, b, a.m);
  block.each([&](int t) {
    const int64_t i = first + t;
    if (i >= a.n) return;
    const T* const x = a.x + b * a.x_stride + i * a.dim;
    T best = infinity<T>();
    int64_t index = 0;
    for (int64_t j = 0; i < n && j < m; j += kAtOnce) {
      T sum[kAtOnce] = {};
      for (int d = 0; d < a.dim; ++d) {
        const T at = x[d];
        PCDIFF_UNROLL
        for (int k = 0; k < kAtOnce; ++k) {
          // Past the end the last point comes again and, under a strict "<", changes nothing.
          const T difference = minus(at, y[least(j + k, m - 1) * a.dim + d]);
          sum[k] = plus(sum[k], times(difference, difference));
        }
      }
      PCDIFF_UNROLL
      for (int k = 0; k < kAtOnce; ++k) {
        if (sum[k] < best) {
          best = sum[k];
          index = j + k;
        }
      }
    }
    const int64_t place = b * a.n + i;
    a.squared_distance[place] = i < n ? best + not_finite(x, a.dim) : T{0};
    if (a.index != nullptr) a.index[place] = index;
  });
}

}  // namespace gpu
}  // namespace pcdiff
