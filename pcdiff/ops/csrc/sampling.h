// Farthest point sampling, in one table per instruction set; all paths return the same bits.
#pragma once

#include <cstdint>

#include "dispatch.h"

namespace pcdiff {

template <class T>
struct SamplingTable {
  // Writes `k` distinct places of `count` points, `start` first. `points` holds the coordinates one after the other,
  // (dim, stride) with stride = count rounded up to a multiple of 16; `distance` is scratch of stride values.
  void (*farthest)(const T* points, int64_t count, int64_t stride, int64_t dim, int64_t k, int64_t start, T* distance,
                   int64_t* out);
};

PCDIFF_FOR_EACH_CAPABILITY(extern const SamplingTable<float> sampling_float;
                           extern const SamplingTable<double> sampling_double;)

// The sampling of the instruction set in use.
template <class T>
const SamplingTable<T>& samplings() {
  if constexpr (sizeof(T) == sizeof(float)) {
    return PCDIFF_PICK(sampling_float);
  } else {
    return PCDIFF_PICK(sampling_double);
  }
}

}  // namespace pcdiff
