#include "blocked.h"

#include <algorithm>
#include <new>
#include <utility>

#include "glue.h"

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
    std::nth_element(first, nth, last,
                     [axis](const Point<T>& a, const Point<T>& b) { return a.at[axis] < b.at[axis]; });
  }
}

// Cuts [first, last) in two near the median of its longest side, at a multiple of sixteen counted from `first`, and
// returns the cut; or `last` where there is nothing to cut.
template <class T>
Point<T>* split(Point<T>* first, Point<T>* last) {
  if (last - first <= kBlock) return last;
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
  if (!(high[axis] > low[axis])) return last;
  const int64_t blocks = (last - first + kBlock - 1) / kBlock;
  // Whole powers of sixteen on the left, so that the boxes of every level are nodes of this tree.
  int64_t unit = 1;
  while (unit * kBlock < blocks) unit *= kBlock;
  const int64_t left = (blocks + unit) / (2 * unit) * unit;
  Point<T>* const cut = first + (left > 0 ? left : unit) * kBlock;
  select(first, cut, last, axis);
  return cut;
}

// Orders the points so that every sixteen in a row, counted from `first`, lie together.
template <class T>
void cluster(Point<T>* first, Point<T>* last) {
  for (;;) {
    Point<T>* const cut = split(first, last);
    if (cut == last) return;
    cluster(first, cut);
    first = cut;
  }
}

// A cloud this large is worth more than one thread.
constexpr int64_t kLarge = int64_t{1} << 15;
constexpr size_t kRanges = 64;

// The same order, the work shared: one level after the other until there are ranges enough for every thread.
template <class T>
void cluster_large(Point<T>* first, Point<T>* last) {
  std::vector<std::pair<Point<T>*, Point<T>*>> ranges{{first, last}};
  while (ranges.size() < kRanges) {
    std::vector<std::pair<Point<T>*, Point<T>*>> halves(2 * ranges.size());
    parallel(static_cast<int64_t>(ranges.size()), 1, [&](int64_t from, int64_t to) {
      for (int64_t r = from; r < to; ++r) {
        const auto [a, b] = ranges[static_cast<size_t>(r)];
        Point<T>* const cut = split(a, b);
        halves[static_cast<size_t>(2 * r)] = {a, cut};
        halves[static_cast<size_t>(2 * r + 1)] = {cut, b};
      }
    });
    ranges.swap(halves);
  }
  parallel(static_cast<int64_t>(ranges.size()), 1, [&](int64_t from, int64_t to) {
    for (int64_t r = from; r < to; ++r) {
      const auto [a, b] = ranges[static_cast<size_t>(r)];
      cluster(a, b);
    }
  });
}

int64_t groups_for(int64_t blocks) {
  int64_t groups = 0;
  for (int64_t boxes = blocks;; boxes = (boxes + kBlock - 1) / kBlock) {
    groups += (boxes + kBlock - 1) / kBlock;
    if (boxes <= kBlock) return groups;
  }
}

// Writes one block in ascending index, and its box; `used` of its slots hold points, the rest repeat the last.
template <class T>
void write_block(const Point<T>* sorted, int used, T* points, Index<T>* index, T* lo, T* hi) {
  // The rank of an index among sixteen is its place: no data-dependent branch, unlike a sort.
  int32_t order[kBlock];
  for (int i = 0; i < kBlock; ++i) order[i] = i < used ? static_cast<int32_t>(sorted[i].index) : INT32_MAX;
  int32_t rank[kBlock] = {};
  for (int j = 0; j < kBlock; ++j) {
    for (int i = 0; i < kBlock; ++i) rank[i] += order[j] < order[i] ? 1 : 0;
  }
  for (int i = 0; i < used; ++i) {
    index[rank[i]] = sorted[i].index;
    for (int d = 0; d < 3; ++d) points[d * kBlock + rank[i]] = sorted[i].at[d];
  }
  for (int i = used; i < kBlock; ++i) {
    index[i] = index[used - 1];
    for (int d = 0; d < 3; ++d) points[d * kBlock + i] = points[d * kBlock + used - 1];
  }
  for (int d = 0; d < 3; ++d) {
    const T* p = points + d * kBlock;
    T low = p[0], high = p[0];
    for (int i = 1; i < kBlock; ++i) {
      low = p[i] < low ? p[i] : low;
      high = p[i] > high ? p[i] : high;
    }
    lo[d * kBlock] = low;
    hi[d * kBlock] = high;
  }
}

// Fills one level from the one below, of `below` boxes.
template <class T>
void write_level(const T* from, const Index<T>* first_from, int64_t below, T* to, Index<T>* first_to) {
  const int64_t boxes = (below + kBlock - 1) / kBlock;
  for (int64_t box = 0; box < boxes; ++box) {
    const T* group = from + box * kGroup;  // box i holds group i: the repeats in it change no bound
    T* out = to + box / kBlock * kGroup + box % kBlock;
    for (int row = 0; row < 6; ++row) {
      const T* bound = group + row * kBlock;
      T extreme = bound[0];
      for (int i = 1; i < kBlock; ++i) {
        extreme = (row < 3 ? bound[i] < extreme : bound[i] > extreme) ? bound[i] : extreme;
      }
      out[row * kBlock] = extreme;
    }
    const Index<T>* first = first_from + box * kBlock;
    first_to[box] = *std::min_element(first, first + kBlock);
  }
}

// Repeats the last of `boxes` boxes to the end of its group.
template <class T>
void pad_level(T* values, Index<T>* first, int64_t boxes) {
  const int64_t last = boxes - 1;
  T* group = values + last / kBlock * kGroup;
  for (int64_t box = boxes; box % kBlock; ++box) {
    for (int row = 0; row < 6; ++row) group[row * kBlock + box % kBlock] = group[row * kBlock + last % kBlock];
    first[box] = first[last];
  }
}

}  // namespace

template <class T>
void BlockedBatch<T>::Free::operator()(void* p) const {
  ::operator delete(p, kAlign);
}

template <class T>
BlockedBatch<T>::BlockedBatch(int64_t batch, int64_t most, int dim)
    : blocks_((most + kBlock - 1) / kBlock),
      groups_(groups_for(blocks_)),
      dim_(dim),
      counts_(static_cast<size_t>(batch), most) {
  const size_t values = static_cast<size_t>(3 * kBlock * blocks_ + kGroup * groups_);
  const size_t indices = static_cast<size_t>(kBlock * (blocks_ + groups_));
  values_.reset(static_cast<T*>(::operator new(batch * values * sizeof(T), kAlign)));
  index_.reset(static_cast<Index<T>*>(::operator new(batch * indices * sizeof(Index<T>), kAlign)));
}

template <class T>
BlockedCloud<T> BlockedBatch<T>::operator[](int64_t b) const {
  BlockedCloud<T> out;
  out.count = counts_[static_cast<size_t>(b)];
  out.blocks = (out.count + kBlock - 1) / kBlock;
  out.points = values_.get() + b * (3 * kBlock * blocks_ + kGroup * groups_);
  out.boxes = out.points + 3 * kBlock * blocks_;
  out.index = index_.get() + b * kBlock * (blocks_ + groups_);
  out.first = out.index + kBlock * blocks_;
  out.levels = 0;
  int64_t group = 0;
  do {
    out.start[out.levels] = group;
    group += (boxes_on(out.blocks, out.levels) + kBlock - 1) / kBlock;
  } while (boxes_on(out.blocks, out.levels++) > kBlock);
  return out;
}

template <class T>
bool BlockedBatch<T>::fill(int64_t b, const T* cloud, int64_t count) {
  counts_[static_cast<size_t>(b)] = count;
  const BlockedCloud<T> view = (*this)[b];
  T* points = const_cast<T*>(view.points);
  Index<T>* index = const_cast<Index<T>*>(view.index);
  T* boxes = const_cast<T*>(view.boxes);
  Index<T>* first = const_cast<Index<T>*>(view.first);

  const std::unique_ptr<Point<T>[]> sorted(new Point<T>[static_cast<size_t>(count)]);
  std::atomic<bool> finite{true};
  parallel(count, kLarge, [&](int64_t from, int64_t to) {
    T not_finite = 0;
    for (int64_t i = from; i < to; ++i) {
      Point<T> p = {{0, 0, 0}, static_cast<Index<T>>(i)};
      for (int d = 0; d < dim_; ++d) {
        p.at[d] = cloud[i * dim_ + d];
        not_finite += p.at[d] - p.at[d];  // 0 for a finite coordinate, else NaN
      }
      sorted[static_cast<size_t>(i)] = p;
    }
    if (!(not_finite == 0)) finite = false;
  });
  if (!finite) return false;
  if (count > kLarge) {
    cluster_large(sorted.get(), sorted.get() + count);
  } else {
    cluster(sorted.get(), sorted.get() + count);
  }

  parallel(view.blocks, kLarge / kBlock, [&](int64_t from, int64_t to) {
    for (int64_t block = from; block < to; ++block) {
      const int64_t left = count - block * kBlock;
      T* box = boxes + block / kBlock * kGroup + block % kBlock;
      write_block(sorted.get() + block * kBlock, left < kBlock ? static_cast<int>(left) : kBlock,
                  points + block * 3 * kBlock, index + block * kBlock, box, box + 3 * kBlock);
      first[block] = index[block * kBlock];
    }
  });
  pad_level(boxes, first, view.blocks);
  for (int level = 1; level < view.levels; ++level) {
    const int64_t from = view.start[level - 1], to = view.start[level];
    write_level(boxes + from * kGroup, first + from * kBlock, boxes_on(view.blocks, level - 1), boxes + to * kGroup,
                first + to * kBlock);
    pad_level(boxes + to * kGroup, first + to * kBlock, boxes_on(view.blocks, level));
  }
  return true;
}

template class BlockedBatch<float>;
template class BlockedBatch<double>;

}  // namespace pcdiff
