// The sums over all pairs of points that approximate matches and Sinkhorn's iterations are made of, in one table per
// instruction set.
//
// The points of one cloud stand in the lanes, those of the other are broadcast. Weights and results stand in the
// order of the blocks, 16 for each, and the weight of a slot that only fills up the last block is 0 (its potential:
// the lowest finite number). Every path adds in the same order, without fused multiply-add: all return the same bits.
#pragma once

#include <cstdint>

#include "blocked.h"
#include "dispatch.h"

namespace pcdiff {

// What `spend` computes beside the present level's sums.
enum class Ahead {
  kQuarter,  // the sums of the next level, a quarter of this one
  kNothing,  // nothing: this level is followed by level 0 or by none
  kFlat,     // nothing, and this level is 0 itself
};

// A cloud in blocks of 16 points (see blocked.h), with any number of coordinates.
template <class T>
struct Patches {
  int64_t blocks;
  int64_t stride;         // length of one row of lo and hi: blocks rounded up to a multiple of 16
  const T* points;        // blocks x dim x 16; the last block repeats its last point
  const Index<T>* index;  // blocks x 16, the points' places in the caller's cloud
  const T* lo;            // 3 x stride, the blocks' bounding boxes; null with more than three coordinates
  const T* hi;            // 3 x stride
};

template <class T>
struct TransportTable {
  // sum[i] = sum_j exp(level |x_i - y_j|^2) weight[j] for the row blocks [first, last), written from sum[0] on; level < 0.
  // `gaps` is scratch of other.stride values.
  void (*weigh)(const Patches<T>& own, int64_t first, int64_t last, const Patches<T>& other, int64_t dim, T level,
                const T* weight, T* gaps, T* sum);
  // The same sum, the one with every term multiplied by the distance (squared or not), and, under kQuarter,
  // next_sum[i] = sum_j exp(level / 4 |x_i - y_j|^2) next_weight[j].
  void (*spend)(const Patches<T>& own, int64_t first, int64_t last, const Patches<T>& other, int64_t dim, T level,
                Ahead ahead, bool squared, const T* weight, const T* next_weight, T* gaps, T* sum, T* cost,
                T* next_sum);
  // top[i] = max_j (potential[j] - |x_i - y_j|), sum[i] = sum_j exp((potential[j] - |x_i - y_j| - top[i]) / scale).
  // `highest` holds the largest potential of each block of `other` (other.stride of them).
  void (*softmin)(const Patches<T>& own, int64_t first, int64_t last, const Patches<T>& other, int64_t dim, T scale,
                  const T* potential, const T* highest, T* gaps, T* top, T* sum);
};

PCDIFF_FOR_EACH_CAPABILITY(extern const TransportTable<float> transport_float;
                           extern const TransportTable<double> transport_double;)

// The sums of the instruction set in use.
template <class T>
const TransportTable<T>& transports() {
  if constexpr (sizeof(T) == sizeof(float)) {
    return PCDIFF_PICK(transport_float);
  } else {
    return PCDIFF_PICK(transport_double);
  }
}

}  // namespace pcdiff
