#include "blocked.h"

#include <algorithm>
#include <new>

namespace pcdiff {
namespace {

constexpr std::align_val_t kAlign{64};

template <class T>
struct Point {
  T at[3];
  Index<T> index;
};

template <class T>
T middle(T a, T b, T c) {
  const T low = a < b ? a : b, high = a < b ? b : a;
  return c < low ? low : c > high ? high : c;
}

// A guess at the median coordinate: the median of three, of nine where that pays.
template <class T>
T pivot(const Point<T>* first, int64_t count, int axis) {
  const auto at = [&](int64_t i) { return first[i].at[axis]; };
  if (count < 128) return middle(at(0), at(count / 2), at(count - 1));
  const int64_t step = count / 8;
  return middle(middle(at(0), at(step), at(2 * step)), middle(at(3 * step), at(4 * step), at(5 * step)),
                middle(at(6 * step), at(7 * step), at(count - 1)));
}

// Like std::nth_element by one coordinate. The partition swaps unconditionally: on points in no order a branch would
// be mispredicted every other time, which is what std::nth_element spends most of its time on.
template <class T>
void select(Point<T>* first, Point<T>* nth, Point<T>* last, int axis) {
  while (last - first > kBlock) {
    const int64_t count = last - first;
    const T at = pivot(first, count, axis);
    Point<T>* below = first;
    for (Point<T>* p = first; p < last; ++p) {
      const Point<T> point = *p;
      *p = *below;
      *below = point;
      below += point.at[axis] < at;
    }
    const int64_t before = below - first;
    // Many equal coordinates or a bad guess: leave it to the algorithm with a guaranteed bound.
    if (before < count / 8 || before > count - count / 8) break;
    if (nth < below) {
      last = below;
    } else {
      first = below;
    }
  }
  if (first < last) {
    std::nth_element(first, nth, last, [axis](const Point<T>& a, const Point<T>& b) { return a.at[axis] < b.at[axis]; });
  }
}

// Orders the points so that every sixteen in a row, counted from `first`, lie together: a k-d tree cut at the median
// of the longest side, rounded to whole blocks.
template <class T>
void cluster(Point<T>* first, Point<T>* last) {
  while (last - first > kBlock) {
    T low[3], high[3];
    for (int d = 0; d < 3; ++d) low[d] = high[d] = first->at[d];
    for (const Point<T>* p = first; p < last; ++p) {
      for (int d = 0; d < 3; ++d) {
        low[d] = p->at[d] < low[d] ? p->at[d] : low[d];
        high[d] = p->at[d] > high[d] ? p->at[d] : high[d];
      }
    }
    int axis = 0;
    for (int d = 1; d < 3; ++d) axis = high[d] - low[d] > high[axis] - low[axis] ? d : axis;
    if (!(high[axis] > low[axis])) return;
    const int64_t blocks = (last - first + kBlock - 1) / kBlock;
    Point<T>* const half = first + blocks / 2 * kBlock;
    select(first, half, last, axis);
    cluster(first, half);
    first = half;
  }
}

}  // namespace

template <class T>
void BlockedBatch<T>::Free::operator()(void* p) const {
  ::operator delete(p, kAlign);
}

template <class T>
BlockedBatch<T>::BlockedBatch(int64_t batch, int64_t count, int dim)
    : count_(count), blocks_((count + kBlock - 1) / kBlock), stride_((blocks_ + kBlock - 1) / kBlock * kBlock), dim_(dim) {
  const size_t per_cloud = static_cast<size_t>(3 * kBlock * blocks_ + 6 * stride_);
  values_.reset(static_cast<T*>(::operator new(batch * per_cloud * sizeof(T), kAlign)));
  index_.reset(static_cast<Index<T>*>(::operator new(batch * blocks_ * kBlock * sizeof(Index<T>), kAlign)));
}

template <class T>
BlockedCloud<T> BlockedBatch<T>::operator[](int64_t b) const {
  const T* points = values_.get() + b * (3 * kBlock * blocks_ + 6 * stride_);
  const T* lo = points + 3 * kBlock * blocks_;
  return {count_, blocks_, stride_, points, index_.get() + b * blocks_ * kBlock, lo, lo + 3 * stride_};
}

template <class T>
bool BlockedBatch<T>::fill(int64_t b, const T* cloud) {
  const BlockedCloud<T> view = (*this)[b];
  T* points = const_cast<T*>(view.points);
  Index<T>* index = const_cast<Index<T>*>(view.index);
  T* lo = const_cast<T*>(view.lo);
  T* hi = const_cast<T*>(view.hi);

  std::vector<Point<T>> sorted(static_cast<size_t>(count_));
  T not_finite = 0;
  for (int64_t i = 0; i < count_; ++i) {
    Point<T>& p = sorted[static_cast<size_t>(i)];
    p = {{0, 0, 0}, static_cast<Index<T>>(i)};
    for (int d = 0; d < dim_; ++d) {
      p.at[d] = cloud[i * dim_ + d];
      not_finite += p.at[d] - p.at[d];  // 0 for a finite coordinate, else NaN
    }
  }
  if (!(not_finite == 0)) return false;
  cluster(sorted.data(), sorted.data() + count_);

  // Dealing the points out in their original order leaves each block in ascending index.
  std::vector<int64_t> block_of(static_cast<size_t>(count_));
  for (int64_t r = 0; r < count_; ++r) block_of[static_cast<size_t>(sorted[static_cast<size_t>(r)].index)] = r / kBlock;
  std::vector<int32_t> filled(static_cast<size_t>(blocks_), 0);
  for (int64_t i = 0; i < count_; ++i) {
    const int64_t block = block_of[static_cast<size_t>(i)];
    const int slot = filled[static_cast<size_t>(block)]++;
    index[block * kBlock + slot] = static_cast<Index<T>>(i);
    for (int d = 0; d < 3; ++d) {
      points[(block * 3 + d) * kBlock + slot] = d < dim_ ? cloud[i * dim_ + d] : T{0};
    }
  }
  const int64_t last = blocks_ - 1;
  const int used = filled[static_cast<size_t>(last)];
  for (int slot = used; slot < kBlock; ++slot) {
    index[last * kBlock + slot] = index[last * kBlock + used - 1];
    for (int d = 0; d < 3; ++d) points[(last * 3 + d) * kBlock + slot] = points[(last * 3 + d) * kBlock + used - 1];
  }

  for (int d = 0; d < 3; ++d) {
    for (int64_t block = 0; block < blocks_; ++block) {
      const T* p = points + (block * 3 + d) * kBlock;
      T low = p[0], high = p[0];
      for (int i = 1; i < kBlock; ++i) {
        low = p[i] < low ? p[i] : low;
        high = p[i] > high ? p[i] : high;
      }
      lo[d * stride_ + block] = low;
      hi[d * stride_ + block] = high;
    }
    // Boxes that fill up the last vector are copies: their bounds are computed and never read.
    for (int64_t block = blocks_; block < stride_; ++block) {
      lo[d * stride_ + block] = lo[d * stride_ + blocks_ - 1];
      hi[d * stride_ + block] = hi[d * stride_ + blocks_ - 1];
    }
  }
  return true;
}

template class BlockedBatch<float>;
template class BlockedBatch<double>;

}  // namespace pcdiff
