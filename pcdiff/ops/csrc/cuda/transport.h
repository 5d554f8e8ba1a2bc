// Sums over all pairs of points: Sinkhorn's soft minimum, and the approximate match of Fan et al.
#pragma once

#include "points.h"

namespace pcdiff {
namespace gpu {

constexpr int kTransportTile = 256;

template <class T, int kThreads>
struct TransportShared {
  Packed<T> tile[kTransportTile];
  double sums[kThreads];
};

// One cloud's points in the threads, one each, against all points of another with a value beside each.
template <class T>
struct Against {
  const T* x;  // n x dim
  int64_t n;
  const T* y;  // m x dim
  int64_t m;
  int dim;
  const T* value;  // m
};

// Calls `visit(thread, values, squared, count)` for the points [first, first + kThreads) of x, with the next `count`
// (at most kAtOnce) points of y: their values and squared distances. With kPacked the points of y come through shared
// memory (dim <= 3), else from global memory.
template <class T, bool kPacked, int kAtOnce, class B, class Visit>
PCDIFF_DEVICE void scan_rows(const B& block, TransportShared<T, B::kSize>& shared, const Against<T>& p, int64_t first,
                             const Visit& visit) {
  typename B::template PerThread<Packed<T>> row;
  block.each([&](int t) {
    if (kPacked) row[t] = packed(p.x + least(first + t, p.n - 1) * p.dim, p.dim, T{0});
  });
  for (int64_t start = 0; start < p.m; start += kTransportTile) {
    const int count = static_cast<int>(least(kTransportTile, p.m - start));
    block.each([&](int t) {
      for (int j = t; j < count; j += B::kSize) {
        const T value = p.value[start + j];
        if (kPacked) {
          shared.tile[j] = packed(p.y + (start + j) * p.dim, p.dim, value);
        } else {
          shared.tile[j].value = value;
        }
      }
    });
    block.each([&](int t) {
      if (first + t >= p.n) return;
      const T* const own = p.x + (first + t) * p.dim;
      for (int j = 0; j < count; j += kAtOnce) {
        T value[kAtOnce], square[kAtOnce];
        PCDIFF_UNROLL
        for (int k = 0; k < kAtOnce; ++k) {
          const int at = j + k < count ? j + k : count - 1;
          value[k] = shared.tile[at].value;
          square[k] = kPacked ? squared_distance(row[t], shared.tile[at])
                              : squared_distance(own, p.y + (start + at) * p.dim, p.dim);
        }
        visit(t, value, square, count - j < kAtOnce ? count - j : kAtOnce);
      }
    });
  }
}

template <class T>
struct SoftminArgs {
  const T* x;  // batch x n x dim
  const T* y;  // batch x m x dim
  const T* potential;  // batch x m
  int64_t batch, n, m;
  int dim;
  T scale;
  T* out;  // batch x n
};

// The points [chunk * kThreads, ...) of cloud `task / chunks`: -scale log sum_j exp((potential_j - |x_i - y_j|) / scale).
template <class T, bool kPacked, class B>
PCDIFF_DEVICE void softmin_body(const B& block, TransportShared<T, B::kSize>& shared, const SoftminArgs<T>& a,
                                int64_t task) {
  constexpr int kAtOnce = 8;
  struct Running {
    T top;  // the largest term so far
    T sum;  // of exp((term - top) / scale)
  };
  const int64_t chunks = chunks_of(a.n, B::kSize);
  const int64_t b = task / chunks, first = task % chunks * B::kSize;
  const Against<T> pair{a.x + b * a.n * a.dim, a.n, a.y + b * a.m * a.dim, a.m, a.dim, a.potential + b * a.m};
  const T inverse = T{1} / a.scale;
  typename B::template PerThread<Running> running;
  block.each([&](int t) { running[t] = {-infinity<T>(), T{0}}; });
  scan_rows<T, kPacked, kAtOnce>(block, shared, pair, first, [&](int t, const T* value, const T* square, int count) {
    Running& own = running[t];
    T term[kAtOnce];
    T top = own.top;
    PCDIFF_UNROLL
    for (int k = 0; k < kAtOnce; ++k) {
      term[k] = k < count ? value[k] - square_root(square[k]) : -infinity<T>();
      top = term[k] > top ? term[k] : top;
    }
    T part = 0;
    PCDIFF_UNROLL
    for (int k = 0; k < kAtOnce; ++k) part += exponential((term[k] - top) * inverse);
    own.sum = own.sum * exponential((own.top - top) * inverse) + part;
    own.top = top;
  });
  block.each([&](int t) {
    if (first + t >= a.n) return;
    const T nan = not_finite(pair.x + (first + t) * a.dim, a.dim);
    const double log_sum = logarithm(static_cast<double>(running[t].sum));
    a.out[b * a.n + first + t] =
        static_cast<T>(-(static_cast<double>(running[t].top) + static_cast<double>(a.scale) * log_sum)) + nan;
  });
}

template <class T>
struct MatchArgs {
  const T* x;  // batch x n x dim
  const T* y;  // batch x m x dim
  int64_t batch, n, m;
  int dim;
  int first_level;  // exponents -4^first_level, ..., -4^-1
  int levels;       // their number, and one more for exponent 0 where that is wanted
  bool squared;     // cost by squared distances
  T* rest_x;        // batch x n, scratch: the mass each point still has
  T* rest_y;        // batch x m, scratch
  T* left;          // batch x levels x n
  T* right;         // batch x levels x m
  T* cost;          // batch
};

// A sum that is kept in T only for a few terms at a time.
template <class T>
struct LongSum {
  double total;
  PCDIFF_DEVICE void add(T part) { total += static_cast<double>(part); }
};

// One pair of clouds. A level hands out mass in three steps (Fan et al., 2017, arXiv 1612.00603, supplement): each x
// offers what it has left to the y's in proportion to exp(level d^2) and to what they can still take; a y that is
// offered more scales all offers down; what is accepted is booked on both sides.
template <class T, bool kPacked, class B>
PCDIFF_DEVICE void match_body(const B& block, TransportShared<T, B::kSize>& shared, const MatchArgs<T>& a, int64_t b) {
  constexpr int kAtOnce = 4;
  // Keeps every sum that is divided by away from 0; the value all the published kernels use.
  constexpr T kEpsilon = static_cast<T>(1e-9);
  const T* const x = a.x + b * a.n * a.dim;
  const T* const y = a.y + b * a.m * a.dim;
  T* const rest_x = a.rest_x + b * a.n;
  T* const rest_y = a.rest_y + b * a.m;

  typename B::template PerThread<LongSum<T>> sum, spent;
  typename B::template PerThread<double> cost;
  block.each([&](int t) {
    cost[t] = 0;
    // Whole points each side can give or take; the published kernels divide integers.
    for (int64_t i = t; i < a.n; i += B::kSize) rest_x[i] = static_cast<T>(a.n >= a.m ? 1 : a.m / a.n);
    for (int64_t j = t; j < a.m; j += B::kSize) rest_y[j] = static_cast<T>(a.n >= a.m ? a.n / a.m : 1);
  });
  for (int step = 0; step < a.levels; ++step) {
    const int exponent = a.first_level - step;
    T level = exponent >= -1 ? T{-1} : T{0};
    for (int e = 0; e < exponent; ++e) level *= T{4};
    if (exponent == -1) level /= T{4};
    T* const left = a.left + (b * a.levels + step) * a.n;
    T* const right = a.right + (b * a.levels + step) * a.m;
    const auto weigh = [&](const T* value, const T* square, int count) {
      T part = 0;
      PCDIFF_UNROLL
      for (int k = 0; k < kAtOnce; ++k) part += k < count ? exponential(level * square[k]) * value[k] : T{0};
      return part;
    };

    for (int64_t first = 0; first < a.n; first += B::kSize) {
      block.each([&](int t) { sum[t].total = 0; });
      scan_rows<T, kPacked, kAtOnce>(
          block, shared, {x, a.n, y, a.m, a.dim, rest_y}, first,
          [&](int t, const T* value, const T* square, int count) { sum[t].add(weigh(value, square, count)); });
      block.each([&](int t) {
        const int64_t i = first + t;
        if (i < a.n) left[i] = rest_x[i] / (kEpsilon + static_cast<T>(sum[t].total));
      });
    }
    for (int64_t first = 0; first < a.m; first += B::kSize) {
      block.each([&](int t) { sum[t].total = 0; });
      scan_rows<T, kPacked, kAtOnce>(
          block, shared, {y, a.m, x, a.n, a.dim, left}, first,
          [&](int t, const T* value, const T* square, int count) { sum[t].add(weigh(value, square, count)); });
      block.each([&](int t) {
        const int64_t j = first + t;
        if (j >= a.m) return;
        const T rest = rest_y[j];
        const T asked = rest * static_cast<T>(sum[t].total);
        const T share = rest / (asked + kEpsilon);
        right[j] = rest * (share < T{1} ? share : T{1});
        rest_y[j] = asked < rest ? rest - asked : T{0};
      });
    }
    for (int64_t first = 0; first < a.n; first += B::kSize) {
      block.each([&](int t) { sum[t].total = spent[t].total = 0; });
      scan_rows<T, kPacked, kAtOnce>(
          block, shared, {x, a.n, y, a.m, a.dim, right}, first,
          [&](int t, const T* value, const T* square, int count) {
            T part = 0, part_cost = 0;
            PCDIFF_UNROLL
            for (int k = 0; k < kAtOnce; ++k) {
              const T term = k < count ? exponential(level * square[k]) * value[k] : T{0};
              part += term;
              part_cost += term * (a.squared ? square[k] : square_root(square[k]));
            }
            sum[t].add(part);
            spent[t].add(part_cost);
          });
      block.each([&](int t) {
        const int64_t i = first + t;
        if (i >= a.n) return;
        const T given = left[i] * static_cast<T>(sum[t].total);
        rest_x[i] = given < rest_x[i] ? rest_x[i] - given : T{0};
        cost[t] += static_cast<double>(left[i]) * spent[t].total;
      });
    }
  }
  block.each([&](int t) { shared.sums[t] = cost[t]; });
  combine_groups(block, shared.sums, B::kSize, [](double p, double q) { return p + q; });
  block.each([&](int t) {
    if (t == 0) a.cost[b] = static_cast<T>(shared.sums[0]);
  });
}

}  // namespace gpu
}  // namespace pcdiff
