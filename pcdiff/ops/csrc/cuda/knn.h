// The k nearest neighbors. One query a thread; its list of neighbors, sorted, stands in registers where k is small
// and otherwise in the query's own row of the output, so there is no limit on k.
#pragma once

#include "nearest.h"

namespace pcdiff {
namespace gpu {

template <class T>
struct KnnArgs {
  const T* x;  // batch x n x dim
  const T* y;  // batch x m x dim
  int64_t batch, n, m;
  int dim;
  int64_t k;
  const int64_t* x_lengths;  // batch, or null
  const int64_t* y_lengths;  // batch, or null
  T* squared_distance;       // batch x n x k, ascending
  int64_t* index;            // batch x n x k; of equal distances the smallest comes first
};

constexpr int kKnnSlots = 16;

// A sorted list of k <= kKnnSlots neighbors. Every access has a constant index, so it stays in registers.
template <class T>
struct SlotList {
  T distance[kKnnSlots];
  int index[kKnnSlots];
  T limit;

  PCDIFF_DEVICE void start(T*, int64_t*, int64_t) {
    PCDIFF_UNROLL
    for (int s = 0; s < kKnnSlots; ++s) {
      distance[s] = infinity<T>();
      index[s] = -1;
    }
    limit = infinity<T>();
  }

  // Whether a distance belongs before slot s: it is smaller, or the slot is empty.
  PCDIFF_DEVICE bool before(T d, int s) const { return index[s] < 0 || d < distance[s]; }

  PCDIFF_DEVICE void add(T d, int64_t j, int64_t k) {
    const int at = static_cast<int>(j);
    // From the back: a slot that the new one comes before takes its predecessor, or the new one if that stays.
    PCDIFF_UNROLL
    for (int s = kKnnSlots - 1; s >= 0; --s) {
      if (!before(d, s)) continue;
      const bool shift = s > 0 && before(d, s > 0 ? s - 1 : 0);
      distance[s] = shift ? distance[s > 0 ? s - 1 : 0] : d;
      index[s] = shift ? index[s > 0 ? s - 1 : 0] : at;
    }
    PCDIFF_UNROLL
    for (int s = 0; s < kKnnSlots; ++s) {
      if (s == k - 1) limit = distance[s];
    }
  }

  PCDIFF_DEVICE void finish(T* out, int64_t* out_index, int64_t k, T nan) const {
    PCDIFF_UNROLL
    for (int s = 0; s < kKnnSlots; ++s) {
      if (s < k) {
        out[s] = distance[s] + nan;
        out_index[s] = index[s];
      }
    }
  }
};

// A sorted list of any length in memory.
template <class T>
struct RowList {
  T* distance;
  int64_t* index;
  int64_t filled;
  T limit;

  PCDIFF_DEVICE void start(T* out, int64_t* out_index, int64_t k) {
    distance = out;
    index = out_index;
    filled = 0;
    limit = infinity<T>();
    for (int64_t s = 0; s < k; ++s) {
      distance[s] = infinity<T>();
      index[s] = -1;
    }
  }

  PCDIFF_DEVICE void add(T d, int64_t j, int64_t k) {
    int64_t s = filled < k ? filled++ : k - 1;
    for (; s > 0 && d < distance[s - 1]; --s) {
      distance[s] = distance[s - 1];
      index[s] = index[s - 1];
    }
    distance[s] = d;
    index[s] = j;
    limit = distance[k - 1];
  }

  PCDIFF_DEVICE void finish(T*, int64_t*, int64_t k, T nan) const {
    for (int64_t s = 0; s < k; ++s) distance[s] += nan;
  }
};

// The queries [chunk * kThreads, ...) of cloud `task / chunks`. With kPacked the points of y come through shared
// memory (dim <= 3), else from global memory.
template <class T, class List, bool kPacked, class B>
PCDIFF_DEVICE void knn_body(const B& block, NearestShared<T>& shared, const KnnArgs<T>& a, int64_t task) {
  struct Query {
    Packed<T> point;
    List list;
  };
  const int64_t chunks = chunks_of(a.n, B::kSize);
  const int64_t b = task / chunks, first = task % chunks * B::kSize;
  const T* const x = a.x + b * a.n * a.dim;
  const T* const y = a.y + b * a.m * a.dim;
  const int64_t n = length_of(a.x_lengths, b, a.n), m = length_of(a.y_lengths, b, a.m);

  typename B::template PerThread<Query> queries;
  block.each([&](int t) {
    Query& own = queries[t];
    const int64_t i = first + t;
    if (kPacked) own.point = packed(x + least(i, a.n - 1) * a.dim, a.dim, T{0});
    if (i < n) own.list.start(a.squared_distance + (b * a.n + i) * a.k, a.index + (b * a.n + i) * a.k, a.k);
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
      Query& own = queries[t];
      for (int j = 0; j < count; ++j) {
        const T d = kPacked ? squared_distance(own.point, shared.tile[j])
                            : squared_distance(x + i * a.dim, y + (start + j) * a.dim, a.dim);
        // The points come in ascending index, so an equal one belongs behind; but while there are fewer than k
        // neighbors, even an infinite distance is one.
        if (d < own.list.limit || start + j < a.k) own.list.add(d, start + j, a.k);
      }
    });
  }
  block.each([&](int t) {
    const int64_t i = first + t;
    if (i >= a.n) return;
    T* const out = a.squared_distance + (b * a.n + i) * a.k;
    int64_t* const out_index = a.index + (b * a.n + i) * a.k;
    if (i < n) {
      queries[t].list.finish(out, out_index, a.k, not_finite(x + i * a.dim, a.dim));
      return;
    }
    for (int64_t s = 0; s < a.k; ++s) {
      out[s] = 0;
      out_index[s] = 0;
    }
  });
}

}  // namespace gpu
}  // namespace pcdiff
