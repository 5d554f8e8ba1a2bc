// Points and distances as all kernels use them.
#pragma once

#include "block.h"

namespace pcdiff {
namespace gpu {

// A point of at most three coordinates (the missing ones 0) and one value beside it, aligned for one vector load.
template <class T>
struct alignas(16) Packed {
  T at[3];
  T value;
};

constexpr int kPackedDims = 3;

template <class T>
PCDIFF_DEVICE Packed<T> packed(const T* point, int dim, T value) {
  Packed<T> out;
  PCDIFF_UNROLL
  for (int d = 0; d < kPackedDims; ++d) out.at[d] = d < dim ? point[d] : T{0};
  out.value = value;
  return out;
}

// Squared distance with the CPU's bits: the squares are added in the order of the coordinates, each result rounded.
// A fused multiply-add would save two of eight instructions and make neighbors differ between the devices.
template <class T>
PCDIFF_DEVICE T squared_distance(const Packed<T>& a, const Packed<T>& b) {
  const T dx = minus(a.at[0], b.at[0]), dy = minus(a.at[1], b.at[1]), dz = minus(a.at[2], b.at[2]);
  return plus(plus(times(dx, dx), times(dy, dy)), times(dz, dz));
}

// The same for any dimension, point by point from memory.
template <class T>
PCDIFF_DEVICE T squared_distance(const T* a, const T* b, int64_t dim) {
  T sum = 0;
  for (int64_t d = 0; d < dim; ++d) {
    const T difference = minus(a[d], b[d]);
    sum = plus(sum, times(difference, difference));
  }
  return sum;
}

// 0 for a finite point, else NaN. Added to a result it lets NaN through where nobody can ask for a value (in a CUDA
// graph), instead of an infinity that looks like a far neighbor.
template <class T>
PCDIFF_DEVICE T not_finite(const T* point, int64_t dim) {
  T sum = 0;
  for (int64_t d = 0; d < dim; ++d) sum += point[d] - point[d];
  return sum;
}

// A cloud's number of points: lengths[b] if there are lengths, kept within the memory.
PCDIFF_DEVICE int64_t length_of(const int64_t* lengths, int64_t b, int64_t padded) {
  if (lengths == nullptr) return padded;
  const int64_t length = lengths[b];
  return length < 1 ? 1 : length > padded ? padded : length;
}

// How many chunks of `size` cover n.
PCDIFF_BOTH int64_t chunks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

PCDIFF_DEVICE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

}  // namespace gpu
}  // namespace pcdiff
