// Farthest point sampling: one block for each cloud.
#pragma once

#include "points.h"

namespace pcdiff {
namespace gpu {

template <class T>
struct FarthestArgs {
  const T* x;  // batch x n x dim
  int64_t batch, n;
  int dim;
  int64_t k;               // at most every cloud's length, but in the legacy way
  const int64_t* start;    // batch
  const int64_t* lengths;  // batch, or null
  T* distance;  // batch x n, scratch: each point's squared distance to the chosen ones, else -1 for a chosen one
  int64_t* out;  // batch x k, distinct but in the legacy way
};

// The published kernels' threads a cloud: each looks at every 512th point, and a tie goes to the first thread.
constexpr int64_t kLegacyStripes = 512;

template <class T>
struct Farthest {
  T distance;
  int64_t index;
};

// Which of two equally far points comes first.
template <bool kLegacy>
PCDIFF_DEVICE bool comes_first(int64_t p, int64_t q) {
  const int64_t a = kLegacy ? p & (kLegacyStripes - 1) : 0, b = kLegacy ? q & (kLegacyStripes - 1) : 0;
  return a < b || (a == b && p < q);
}

template <class T, int kThreads>
struct FarthestShared {
  Farthest<T> best[kThreads];
};

// In the legacy way, as the published kernels, a point may come again, and ties go by kLegacyStripes.
template <class T, bool kLegacy, class B>
PCDIFF_DEVICE void farthest_body(const B& block, FarthestShared<T, B::kSize>& shared, const FarthestArgs<T>& a,
                                 int64_t b) {
  // Within a stripe the points come in ascending index, so that the first of equals is found first.
  constexpr bool kSeveralStripes = kLegacy && B::kSize % kLegacyStripes != 0;
  const T* const x = a.x + b * a.n * a.dim;
  T* const distance = a.distance + b * a.n;
  int64_t* const out = a.out + b * a.k;
  const int64_t n = length_of(a.lengths, b, a.n);
  const int64_t start = a.start[b];
  int64_t place = start < 0 ? 0 : least(start, n - 1);
  for (int64_t chosen = 0; chosen < a.k; ++chosen) {
    block.each([&](int t) {
      if (t == 0) out[chosen] = place;
      Farthest<T> best{T{-2}, 0};
      const T* const last = x + place * a.dim;
      for (int64_t i = t; i < n; i += B::kSize) {
        const T d = squared_distance(x + i * a.dim, last, a.dim);
        T nearest = chosen > 0 ? smaller(distance[i], d) : kLegacy ? smaller(static_cast<T>(1e38), d) : d;
        if (i == place && !kLegacy) nearest = T{-1};
        distance[i] = nearest;
        const bool tied = kSeveralStripes && nearest == best.distance && comes_first<kLegacy>(i, best.index);
        if (nearest > best.distance || tied) best = {nearest, i};
      }
      shared.best[t] = best;
    });
    // The farthest; of equally far ones the first.
    combine_groups(block, shared.best, B::kSize, [](const Farthest<T>& p, const Farthest<T>& q) {
      return q.distance > p.distance || (q.distance == p.distance && comes_first<kLegacy>(q.index, p.index)) ? q : p;
    });
    place = block.agree(shared.best[0]).index;
  }
}

}  // namespace gpu
}  // namespace pcdiff
