// The first points within a radius, in one table per instruction set; all paths return the same bits.
//
// Squared differences are added in the order of the coordinates, without fused multiply-add, and compared by "<" with
// the square of the radius, rounded once: a point exactly on the sphere is outside, on every path alike.
#pragma once

#include <cstdint>

#include "dispatch.h"

namespace pcdiff {

template <class T>
struct BallTable {
  // For each of `n` centers, row-major (n, dim), the first `k` of `count` points that are nearer than the root of
  // `square`, in ascending order; the first found fills up what is left, and index 0 where there is none. `points`
  // holds the coordinates one after the other, (dim, stride) with stride = count rounded up to a multiple of 16.
  void (*within)(const T* centers, int64_t n, const T* points, int64_t count, int64_t stride, int64_t dim, T square,
                 int64_t k, int64_t* out);
};

PCDIFF_FOR_EACH_CAPABILITY(extern const BallTable<float> balls_float; extern const BallTable<double> balls_double;)

// The search of the instruction set in use.
template <class T>
const BallTable<T>& balls() {
  if constexpr (sizeof(T) == sizeof(float)) {
    return PCDIFF_PICK(balls_float);
  } else {
    return PCDIFF_PICK(balls_double);
  }
}

}  // namespace pcdiff
