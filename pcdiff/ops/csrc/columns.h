// A cloud with its coordinates one after the other, as kernels read it whose lanes hold points.
#pragma once

#include <cstdint>

#include "blocked.h"

namespace pcdiff {

// `count` points rounded up to whole vectors.
inline int64_t column_stride(int64_t count) { return (count + kBlock - 1) / kBlock * kBlock; }

// Writes the row-major cloud (count, dim) as (dim, column_stride(count)); the first point fills up each row.
template <class T>
void to_columns(const T* cloud, int64_t count, int64_t dim, T* out) {
  const int64_t stride = column_stride(count);
  for (int64_t i = 0; i < stride; ++i) {
    const T* point = cloud + (i < count ? i : 0) * dim;
    for (int64_t d = 0; d < dim; ++d) out[d * stride + i] = point[d];
  }
}

}  // namespace pcdiff
