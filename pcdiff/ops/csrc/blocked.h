// A cloud cut into blocks of 16 neighboring points, under a tree of bounding boxes.
//
// The blocks are the leaves of a k-d tree: each is a small patch, and its box rules it out of most searches. Sixteen
// blocks in a row share a box one level up, sixteen of those another, and so on: a box and its sixteen children fit
// the lanes of a few vectors. Inside a block the points stand in ascending original index: a scan with a strict "<"
// then keeps the smallest index.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace pcdiff {

constexpr int kBlock = 16;
// 16^7 blocks are more than 2^31 points have.
constexpr int kMaxLevels = 7;
// Values of one group of sixteen boxes: lo x, y, z and hi x, y, z.
constexpr int kGroup = 6 * kBlock;

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
  int64_t count;          // points
  int64_t blocks;         // ceil(count / 16)
  int levels;             // of boxes: those of level 0 hold blocks, the last level is one group
  const T* points;        // blocks x 3 x 16; the last block repeats its last point
  const Index<T>* index;  // blocks x 16, the points' places in the caller's cloud
  const T* boxes;         // groups x 6 x 16, level after level; the last group of a level repeats its last box
  const Index<T>* first;  // groups x 16, the smallest index in each box
  int64_t start[kMaxLevels];  // the first group of each level
};

// Boxes on a level over `blocks` blocks.
inline int64_t boxes_on(int64_t blocks, int level) { return ((blocks - 1) >> (4 * level)) + 1; }

// Owns the blocks of `batch` clouds of at most `most` points each, row-major (batch, most, dim) with dim <= 3.
template <class T>
class BlockedBatch {
 public:
  BlockedBatch(int64_t batch, int64_t most, int dim);

  // Fills cloud b from its first `count` points; different clouds may be filled by different threads. False if a
  // coordinate is NaN or infinite.
  bool fill(int64_t b, const T* cloud, int64_t count);

  BlockedCloud<T> operator[](int64_t b) const;
  // Of a cloud with the most points.
  int64_t blocks() const { return blocks_; }

 private:
  struct Free {
    void operator()(void* p) const;
  };
  int64_t blocks_, groups_;
  int dim_;
  std::vector<int64_t> counts_;
  std::unique_ptr<T, Free> values_;  // per cloud: points, boxes
  std::unique_ptr<Index<T>, Free> index_;  // per cloud: index, first
};

extern template class BlockedBatch<float>;
extern template class BlockedBatch<double>;

}  // namespace pcdiff
