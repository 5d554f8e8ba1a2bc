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

// -scale log sum_j exp((potential_j - |x_i - y_j|) / scale) for the points [chunk * kThreads, ...) of cloud
// `task / chunks`.
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
  int first_level;   // exponents -4^first_level, ..., -4^-1
  int levels;        // their number, and one more for exponent 0 where that is wanted
  bool squared;      // cost by squared distances
  T* rest_x;         // batch x n, scratch: the mass each point still has
  T* rest_y;         // batch x m, scratch
  double* row_cost;  // batch x n, scratch
  T* left;           // batch x levels x n
  T* right;          // batch x levels x m
  T* cost;           // batch
};

// A level hands out mass in three steps (Fan et al., 2017, arXiv 1612.00603, supplement). Each x offers what it has
// left to the y's in proportion to exp(level d^2) and to what they can still take; a y that is offered more scales all
// offers down; what is accepted is booked on both sides. Each step needs the one before of all points, so each is a
// launch of its own, with a block for every few points.
enum class MatchStep { kOffer, kAccept, kBook };

// The exponents' factor at a step: -4^first_level, a quarter of it at the next, ..., -1/4, 0.
template <class T>
PCDIFF_DEVICE T exponent_factor(int first_level, int step) {
  const int power = first_level - step;
  if (power < -1) return 0;
  T factor = static_cast<T>(-0.25);
  for (int e = -1; e < power; ++e) factor *= T{4};
  return factor;
}

// What each point starts with. The published kernels divide integers.
template <class T, class B>
PCDIFF_DEVICE void match_start_body(const B& block, const MatchArgs<T>& a, int64_t b) {
  block.each([&](int t) {
    for (int64_t i = t; i < a.n; i += B::kSize) {
      a.rest_x[b * a.n + i] = static_cast<T>(a.n >= a.m ? 1 : a.m / a.n);
      a.row_cost[b * a.n + i] = 0;
    }
    for (int64_t j = t; j < a.m; j += B::kSize) a.rest_y[b * a.m + j] = static_cast<T>(a.n >= a.m ? a.n / a.m : 1);
  });
}

// One step of one level for the points [chunk * kThreads, ...) of pair `task / chunks`: of y in kAccept, else of x.
template <class T, bool kPacked, MatchStep kStep, class B>
PCDIFF_DEVICE void match_body(const B& block, TransportShared<T, B::kSize>& shared, const MatchArgs<T>& a, int step,
                              int64_t task) {
  constexpr int kAtOnce = 4;
  constexpr bool kOfY = kStep == MatchStep::kAccept;
  // Keeps every sum that is divided by away from 0; the value all the published kernels use.
  constexpr T kEpsilon = static_cast<T>(1e-9);
  struct Sums {
    double mass, cost;  // a few terms at a time are added in T, the rest in double
  };
  const int64_t rows = kOfY ? a.m : a.n;
  const int64_t chunks = chunks_of(rows, B::kSize);
  const int64_t b = task / chunks, first = task % chunks * B::kSize;
  const T* const x = a.x + b * a.n * a.dim;
  const T* const y = a.y + b * a.m * a.dim;
  T* const left = a.left + (b * a.levels + step) * a.n;
  T* const right = a.right + (b * a.levels + step) * a.m;
  const T* const value = kStep == MatchStep::kOffer ? a.rest_y + b * a.m : kOfY ? left : right;
  const Against<T> pair = kOfY ? Against<T>{y, a.m, x, a.n, a.dim, value} : Against<T>{x, a.n, y, a.m, a.dim, value};
  const T factor = exponent_factor<T>(a.first_level, step);

  typename B::template PerThread<Sums> sums;
  block.each([&](int t) { sums[t] = {0, 0}; });
  scan_rows<T, kPacked, kAtOnce>(block, shared, pair, first, [&](int t, const T* weight, const T* square, int count) {
    T mass = 0, cost = 0;
    PCDIFF_UNROLL
    for (int k = 0; k < kAtOnce; ++k) {
      const T term = k < count ? exponential(factor * square[k]) * weight[k] : T{0};
      mass += term;
      if (kStep == MatchStep::kBook) cost += term * (a.squared ? square[k] : square_root(square[k]));
    }
    sums[t].mass += static_cast<double>(mass);
    if (kStep == MatchStep::kBook) sums[t].cost += static_cast<double>(cost);
  });
  block.each([&](int t) {
    const int64_t i = first + t;
    if (i >= rows) return;
    const T mass = static_cast<T>(sums[t].mass);
    if (kStep == MatchStep::kOffer) {
      left[i] = a.rest_x[b * a.n + i] / (kEpsilon + mass);
    } else if (kStep == MatchStep::kAccept) {
      const T rest = a.rest_y[b * a.m + i];
      const T asked = rest * mass;
      const T share = rest / (asked + kEpsilon);
      right[i] = rest * (share < T{1} ? share : T{1});
      a.rest_y[b * a.m + i] = asked < rest ? rest - asked : T{0};
    } else {
      const T rest = a.rest_x[b * a.n + i];
      const T given = left[i] * mass;
      a.rest_x[b * a.n + i] = given < rest ? rest - given : T{0};
      a.row_cost[b * a.n + i] += static_cast<double>(left[i]) * sums[t].cost;
    }
  });
}

template <class T, class B>
PCDIFF_DEVICE void match_cost_body(const B& block, TransportShared<T, B::kSize>& shared, const MatchArgs<T>& a,
                                   int64_t b) {
  block.each([&](int t) {
    double sum = 0;
    for (int64_t i = t; i < a.n; i += B::kSize) sum += a.row_cost[b * a.n + i];
    shared.sums[t] = sum;
  });
  combine_groups(block, shared.sums, B::kSize, [](double p, double q) { return p + q; });
  block.each([&](int t) {
    if (t == 0) a.cost[b] = static_cast<T>(shared.sums[0]);
  });
}

}  // namespace gpu
}  // namespace pcdiff
