// Farthest point sampling, in one table per instruction set; all paths return the same bits.
#pragma once

#include <cstdint>

#include "dispatch.h"

namespace pcdiff {

// The published kernels' threads a cloud: each looks at every 512th point, and a tie goes to the first thread.
constexpr int64_t kLegacyStripes = 512;

template <class T>
struct SamplingTable {
  // Writes `k` places of `count` points, `start` first. `points` holds the coordinates one after the other, (dim,
  // stride) with stride = count rounded up to a multiple of 16; `distance` is scratch of stride values. The places are
  // distinct, and of equally far points the first is taken; in the legacy way a point may come again, and of equally
  // far ones that with the smallest (place mod kLegacyStripes, place) is taken.
  void (*farthest)(const T* points, int64_t count, int64_t stride, int64_t dim, int64_t k, int64_t start, bool legacy,
                   T* distance, int64_t* out);
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
