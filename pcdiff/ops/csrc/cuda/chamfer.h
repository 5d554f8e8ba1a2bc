// The matrix of Chamfer distances. A block takes one pair of clouds and finds the nearest neighbors in both
// directions at once: each squared distance serves a running minimum for its row (in a register) and one for its
// column (in shared memory). Only means come out, no neighbors: so distances may be fused, which the CPU's are not,
// and the results agree to 1e-6 of their size (float32), not to the bit.
#pragma once

#include "nearest.h"

namespace pcdiff {
namespace gpu {

template <class T>
struct ChamferArgs {
  const T* xs;  // rows x n x dim
  const T* ys;  // columns x m x dim
  int64_t rows, columns, n, m;
  int dim;
  bool upper;  // only the entries with column > row; the others become 0
  T* out;      // rows x columns
};

constexpr int kChamferTile = 512;  // even: columns are taken in twos

// Most points a cloud of y may have here; larger clouds have enough work for a block for every few queries.
template <class T>
constexpr int64_t most_columns() {
  return 32768 / static_cast<int64_t>(sizeof(T)) - 2048;
}

template <class T, int kThreads>
struct ChamferShared {
  Packed<T> tile[kChamferTile];
  Bits<T> closest[most_columns<T>() + 1];  // one for the copy that makes an odd number of columns even
  double sums[kThreads];
};

// To a unit in the last place of the CPU's, in 6 instructions for 8.
template <class T>
PCDIFF_DEVICE T fused_squared_distance(const Packed<T>& a, const Packed<T>& b) {
  const T dx = minus(a.at[0], b.at[0]), dy = minus(a.at[1], b.at[1]), dz = minus(a.at[2], b.at[2]);
  return fused(dz, dz, fused(dy, dy, times(dx, dx)));
}

template <class T, int kCount>
PCDIFF_DEVICE T smallest(const T (&values)[kCount]) {
  T out = values[kCount - 1];
  PCDIFF_UNROLL
  for (int i = 0; i + 1 < kCount; i += 2) out = smallest(out, values[i], values[i + 1]);
  return out;
}

// Pair `task / columns, task % columns`, kQueries rows a thread at a time; dim <= 3 and m <= most_columns<T>().
template <class T, int kQueries, class B>
PCDIFF_DEVICE void chamfer_body(const B& block, ChamferShared<T, B::kSize>& shared, const ChamferArgs<T>& a,
                                int64_t task) {
  struct Rows {
    Packed<T> point[kQueries];
    T best[kQueries];
  };
  const int64_t row = task / a.columns, column = task % a.columns;
  if (a.upper && column <= row) {
    block.each([&](int t) {
      if (t == 0) a.out[task] = 0;
    });
    return;
  }
  const T* const x = a.xs + row * a.n * a.dim;
  const T* const y = a.ys + column * a.m * a.dim;
  const int m = static_cast<int>(a.m);

  typename B::template PerThread<Rows> rows;
  typename B::template PerThread<double> there;
  block.each([&](int t) {
    there[t] = 0;
    for (int j = t; j < m; j += B::kSize) shared.closest[j] = to_bits(infinity<T>());
  });
  for (int64_t first = 0; first < a.n; first += int64_t{B::kSize} * kQueries) {
    block.each([&](int t) {
      Rows& own = rows[t];
      PCDIFF_UNROLL
      for (int q = 0; q < kQueries; ++q) {
        // Past the end the last point comes again: as a copy it changes no column, and its row is not counted.
        own.point[q] = packed(x + least(first + q * B::kSize + t, a.n - 1) * a.dim, a.dim, T{0});
        own.best[q] = infinity<T>();
      }
    });
    for (int start = 0; start < m; start += kChamferTile) {
      const int half = ((m - start < kChamferTile ? m - start : kChamferTile) + 1) / 2;
      block.each([&](int t) {
        // As an odd column's partner the last point comes again.
        for (int j = t; j < 2 * half; j += B::kSize) {
          shared.tile[j] = packed(y + least(start + j, m - 1) * a.dim, a.dim, T{0});
        }
      });
      block.each([&](int t) {
        Rows& own = rows[t];
        // Each thread begins elsewhere, so that a warp's atomics go to different columns. Two columns at a time, half
        // a tile apart: neighboring threads read and write neighboring places.
        int j = t % half;
        for (int s = 0; s < half; ++s) {
          const Packed<T> one = shared.tile[j], two = shared.tile[j + half];
          T to_one[kQueries], to_two[kQueries];
          PCDIFF_UNROLL
          for (int q = 0; q < kQueries; ++q) {
            to_one[q] = fused_squared_distance(own.point[q], one);
            to_two[q] = fused_squared_distance(own.point[q], two);
            own.best[q] = smallest(own.best[q], to_one[q], to_two[q]);
          }
          atomic_min(&shared.closest[start + j], to_bits(smallest(to_one)));
          atomic_min(&shared.closest[start + j + half], to_bits(smallest(to_two)));
          j = j + 1 == half ? 0 : j + 1;
        }
      });
    }
    block.each([&](int t) {
      Rows& own = rows[t];
      PCDIFF_UNROLL
      for (int q = 0; q < kQueries; ++q) {
        if (first + q * B::kSize + t < a.n) {
          there[t] += static_cast<double>(own.best[q] + not_finite(own.point[q].at, kPackedDims));
        }
      }
    });
  }
  block.each([&](int t) {
    double back = 0;
    for (int j = t; j < m; j += B::kSize) {
      back += static_cast<double>(from_bits(shared.closest[j]) + not_finite(y + j * int64_t{a.dim}, a.dim));
    }
    shared.sums[t] = there[t] / static_cast<double>(a.n) + back / static_cast<double>(a.m);
  });
  combine_groups(block, shared.sums, B::kSize, [](double p, double q) { return p + q; });
  block.each([&](int t) {
    if (t == 0) a.out[task] = static_cast<T>(shared.sums[0]);
  });
}

// For clouds that do not fit: out[task] becomes the mean of there[task] plus the mean of back[task], found by
// launch_nearest for a whole row of pairs.
template <class T>
struct MeansArgs {
  const T* there;  // pairs x n
  const T* back;   // pairs x m
  int64_t pairs, n, m;
  T* out;  // pairs
};

template <int kThreads>
struct MeansShared {
  double sums[kThreads];
};

template <class T, class B>
PCDIFF_DEVICE void means_body(const B& block, MeansShared<B::kSize>& shared, const MeansArgs<T>& a, int64_t task) {
  block.each([&](int t) {
    double there = 0, back = 0;
    for (int64_t i = t; i < a.n; i += B::kSize) there += static_cast<double>(a.there[task * a.n + i]);
    for (int64_t j = t; j < a.m; j += B::kSize) back += static_cast<double>(a.back[task * a.m + j]);
    shared.sums[t] = there / static_cast<double>(a.n) + back / static_cast<double>(a.m);
  });
  combine_groups(block, shared.sums, B::kSize, [](double p, double q) { return p + q; });
  block.each([&](int t) {
    if (t == 0) a.out[task] = static_cast<T>(shared.sums[0]);
  });
}

}  // namespace gpu
}  // namespace pcdiff
