// A cloud cut into blocks of 16 neighbouring points, each with its bounding box.
//
// The blocks are the leaves of a k-d tree: each is a small patch, and its box rules it out of most searches. Inside a
// block the points stand in ascending original index: a scan with a strict "<" then keeps the smallest index.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace pcdiff {

constexpr int kBlock = 16;

// Indices are as wide as the coordinates, so that one comparison mask selects both.
template <class T>
struct IndexOf;
template <>
struct IndexOf<float> {
  using type = int32_t;
};
template <>
struct IndexOf<double> {
  using type = int64_t;
};
template <class T>
using Index = typename IndexOf<T>::type;

template <class T>
struct BlockedCloud {
  int64_t count;         // points
  int64_t blocks;        // ceil(count / 16)
  int64_t stride;        // length of one row of lo and hi: blocks rounded up to a multiple of 16
  const T* points;       // blocks x 3 x 16; the last block repeats its last point
  const Index<T>* index; // blocks x 16, the points' places in the caller's cloud
  const T* lo;           // 3 x stride, the boxes
  const T* hi;           // 3 x stride
};

// Owns the blocks of `batch` clouds of `count` points each, row-major (batch, count, dim) with dim <= 3.
template <class T>
class BlockedBatch {
 public:
  BlockedBatch(int64_t batch, int64_t count, int dim);

  // Fills cloud b; different clouds may be filled by different threads. False if a coordinate is NaN or infinite.
  bool fill(int64_t b, const T* cloud);

  BlockedCloud<T> operator[](int64_t b) const;
  int64_t blocks() const { return blocks_; }
  int64_t stride() const { return stride_; }

 private:
  struct Free {
    void operator()(void* p) const;
  };
  int64_t count_, blocks_, stride_;
  int dim_;
  std::unique_ptr<T, Free> values_;  // per cloud: points, lo, hi
  std::unique_ptr<Index<T>, Free> index_;
};

extern template class BlockedBatch<float>;
extern template class BlockedBatch<double>;

}  // namespace pcdiff
