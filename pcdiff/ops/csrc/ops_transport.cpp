// Approximate matches and Sinkhorn's soft minimum as torch sees them: shapes, memory and threads.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <tuple>
#include <vector>

#include "glue.h"
#include "transport.h"

namespace pcdiff {
namespace {

constexpr int64_t kBoxedDims = 3;
// Row blocks per task: a few hundred microseconds of work at 2048 points.
constexpr int64_t kBlocksPerTask = 8;
// Keeps every sum that is divided by away from 0; the value all the published kernels use.
constexpr double kEpsilon = 1e-9;

struct Shape {
  int64_t batch, n, m, dim;
};

Shape checked_pair(const Tensor& x, const Tensor& y) {
  STD_TORCH_CHECK(x.dim() == 3 && y.dim() == 3, "pcdiff: x and y must have three dimensions");
  STD_TORCH_CHECK(x.size(2) == y.size(2) && x.size(2) > 0, "pcdiff: x and y must have the same point dimension");
  STD_TORCH_CHECK(x.size(0) == y.size(0), "pcdiff: x and y must have the same batch size");
  STD_TORCH_CHECK(x.size(1) > 0 && y.size(1) > 0, "pcdiff: clouds must not be empty");
  STD_TORCH_CHECK(x.scalar_type() == y.scalar_type(), "pcdiff: x and y must have one dtype");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double,
                  "pcdiff: x and y must be float32 or float64");
  STD_TORCH_CHECK(x.size(1) < (int64_t{1} << 31) - 64 && y.size(1) < (int64_t{1} << 31) - 64,
                  "pcdiff: clouds of 2^31 points or more are not supported");
  return {x.size(0), x.size(1), y.size(1), x.size(2)};
}

// The clouds of a batch in blocks of 16: up to three coordinates neighboring points, with boxes; beyond, in the order
// given, without.
template <class T>
class PatchedBatch {
 public:
  PatchedBatch(const T* clouds, int64_t batch, int64_t count, int64_t dim, const char* name)
      : blocks_((count + kBlock - 1) / kBlock), dim_(dim > kBoxedDims ? dim : kBoxedDims) {
    if (dim <= kBoxedDims) {
      cluster(clouds, batch, count, dim, name);
    } else {
      copy(clouds, batch, count, dim, name);
    }
  }

  Patches<T> operator[](int64_t b) const {
    if (clustered_) {
      const BlockedCloud<T> cloud = (*clustered_)[b];
      const T* lo = boxes_.data() + b * 6 * stride();
      return {blocks_, stride(), cloud.points, cloud.index, lo, lo + 3 * stride()};
    }
    return {blocks_, stride(), points_.data() + b * padded() * dim_, index_.data(), nullptr, nullptr};
  }

  int64_t blocks() const { return blocks_; }
  int64_t padded() const { return blocks_ * kBlock; }
  int64_t stride() const { return (blocks_ + kBlock - 1) / kBlock * kBlock; }
  // Coordinates of a point in a block: three at least, the missing ones 0.
  int64_t dim() const { return dim_; }

 private:
  void cluster(const T* clouds, int64_t batch, int64_t count, int64_t dim, const char* name) {
    clustered_ = std::make_unique<BlockedBatch<T>>(batch, count, static_cast<int>(dim));
    boxes_.resize(static_cast<size_t>(batch * 6 * stride()));
    std::atomic<bool> finite{true};
    parallel(batch, 1, [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b) {
        if (clustered_->fill(b, clouds + b * count * dim, count)) {
          bound((*clustered_)[b].points, boxes_.data() + b * 6 * stride());
        } else {
          finite = false;
        }
      }
    });
    STD_TORCH_CHECK(finite, "pcdiff: ", name, " holds NaN or infinite coordinates");
  }

  void bound(const T* points, T* boxes) const {
    for (int64_t d = 0; d < 3; ++d) {
      T* lo = boxes + d * stride();
      T* hi = lo + 3 * stride();
      for (int64_t block = 0; block < stride(); ++block) {
        // Boxes that fill up a row are copies of the last.
        const T* p = points + ((block < blocks_ ? block : blocks_ - 1) * 3 + d) * kBlock;
        lo[block] = *std::min_element(p, p + kBlock);
        hi[block] = *std::max_element(p, p + kBlock);
      }
    }
  }

  void copy(const T* clouds, int64_t batch, int64_t count, int64_t dim, const char* name) {
    check_finite(clouds, batch * count * dim, name);
    points_.resize(static_cast<size_t>(batch * padded() * dim));
    index_.resize(static_cast<size_t>(padded()));
    for (int64_t i = 0; i < padded(); ++i)
      index_[static_cast<size_t>(i)] = static_cast<Index<T>>(std::min(i, count - 1));
    parallel(batch * blocks_, 64, [&](int64_t first, int64_t last) {
      for (int64_t task = first; task < last; ++task) {
        T* block = points_.data() + task * dim * kBlock;
        const T* cloud = clouds + task / blocks_ * count * dim;
        for (int slot = 0; slot < kBlock; ++slot) {
          const int64_t row = index_[static_cast<size_t>(task % blocks_ * kBlock + slot)];
          for (int64_t d = 0; d < dim; ++d) block[d * kBlock + slot] = cloud[row * dim + d];
        }
      }
    });
  }

  int64_t blocks_, dim_;
  std::unique_ptr<BlockedBatch<T>> clustered_;
  std::vector<T> boxes_;
  std::vector<T> points_;
  std::vector<Index<T>> index_;
};

// Runs `body(b, first, last, scratch)` on ranges of row blocks of every cloud; `scratch` holds `gaps` values.
template <class T, class Body>
void for_row_blocks(int64_t batch, int64_t blocks, int64_t gaps, const Body& body) {
  const int64_t tasks = (blocks + kBlocksPerTask - 1) / kBlocksPerTask;
  parallel(batch * tasks, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(static_cast<size_t>(gaps));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % tasks * kBlocksPerTask;
      const int64_t last = first + kBlocksPerTask < blocks ? first + kBlocksPerTask : blocks;
      body(task / tasks, first, last, scratch.data());
    }
  });
}

std::vector<double> exponents(int64_t first_level, bool zero_level) {
  std::vector<double> levels;
  for (int64_t j = first_level; j >= -1; --j) levels.push_back(-std::pow(4.0, static_cast<double>(j)));
  if (zero_level) levels.push_back(0);
  return levels;
}

// A level hands out mass in three steps (Fan et al., 2017, arXiv 1612.00603, supplement). Every x offers what it has
// left to the y's in proportion to exp(level d^2) and what they can still take; a y that is offered more than that
// scales all offers down; what is accepted is booked on both sides. The third step of a level and the first of the
// next are one pass over the pairs.
template <class T>
class Matching {
 public:
  Matching(const Tensor& x, const Tensor& y, Shape s, std::vector<double> levels, bool squared, T* left, T* right)
      : kernels_(transports<T>()),
        shape_(s),
        levels_(std::move(levels)),
        squared_(squared),
        x_(read<T>(x), s.batch, s.n, s.dim, "x"),
        y_(read<T>(y), s.batch, s.m, s.dim, "y"),
        left_(left),
        right_(right) {
    // Whole points each side can give or take; the published kernels divide integers.
    fill(rest_x_, x_, s.n, s.n >= s.m ? 1 : s.m / s.n);
    fill(rest_y_, y_, s.m, s.n >= s.m ? s.n / s.m : 1);
    offer_.resize(rest_x_.size());
    accepted_.resize(rest_y_.size());
    row_cost_.assign(static_cast<size_t>(s.batch * x_.blocks()), 0.0);
  }

  void run(double* cost) {
    open();
    for (size_t level = 0; level < levels_.size(); ++level) {
      accept(level);
      book(level);
    }
    for (int64_t b = 0; b < shape_.batch; ++b) {
      cost[b] = 0;
      for (int64_t k = 0; k < x_.blocks(); ++k) cost[b] += row_cost_[static_cast<size_t>(b * x_.blocks() + k)];
    }
  }

 private:
  void fill(std::vector<T>& rest, const PatchedBatch<T>& side, int64_t count, int64_t mass) const {
    rest.assign(static_cast<size_t>(shape_.batch * side.padded()), T{0});
    for (int64_t b = 0; b < shape_.batch; ++b) {
      for (int64_t i = 0; i < count; ++i) rest[static_cast<size_t>(b * side.padded() + i)] = static_cast<T>(mass);
    }
  }

  // What x's row block offers at `level`, given the sums of what the y's could take; written to `left`, too.
  void offer(int64_t b, const Patches<T>& own, int64_t first, int64_t last, size_t level, const T* sum) {
    const T* rest = rest_x_.data() + b * x_.padded();
    T* offered = offer_.data() + b * x_.padded();
    T* out = left_ + (b * static_cast<int64_t>(levels_.size()) + static_cast<int64_t>(level)) * shape_.n;
    for (int64_t i = first * kBlock; i < last * kBlock; ++i) {
      offered[i] = rest[i] / (static_cast<T>(kEpsilon) + sum[i - first * kBlock]);
      if (i < shape_.n) out[own.index[i]] = offered[i];
    }
  }

  void open() {
    for_row_blocks<T>(shape_.batch, x_.blocks(), y_.stride(), [&](int64_t b, int64_t first, int64_t last, T* gaps) {
      T sum[kBlocksPerTask * kBlock];
      kernels_.weigh(x_[b], first, last, y_[b], x_.dim(), static_cast<T>(levels_[0]), rest_y_.data() + b * y_.padded(),
                     gaps, sum);
      offer(b, x_[b], first, last, 0, sum);
    });
  }

  void accept(size_t level) {
    const T exponent = static_cast<T>(levels_[level]);
    for_row_blocks<T>(shape_.batch, y_.blocks(), x_.stride(), [&](int64_t b, int64_t first, int64_t last, T* gaps) {
      const Patches<T> own = y_[b];
      const T* offered = offer_.data() + b * x_.padded();
      T sum[kBlocksPerTask * kBlock];
      if (exponent == 0) {
        const T all = total(offered, x_.padded());
        for (T& s : sum) s = all;
      } else {
        kernels_.weigh(own, first, last, x_[b], x_.dim(), exponent, offered, gaps, sum);
      }
      T* rest = rest_y_.data() + b * y_.padded();
      T* accepted = accepted_.data() + b * y_.padded();
      T* out = right_ + (b * static_cast<int64_t>(levels_.size()) + static_cast<int64_t>(level)) * shape_.m;
      for (int64_t j = first * kBlock; j < last * kBlock; ++j) {
        const T asked = rest[j] * sum[j - first * kBlock];
        const T share = rest[j] / (asked + static_cast<T>(kEpsilon));
        accepted[j] = rest[j] * (share < 1 ? share : T{1});
        rest[j] = asked < rest[j] ? rest[j] - asked : T{0};
        if (j < shape_.m) out[own.index[j]] = accepted[j];
      }
    });
  }

  void book(size_t level) {
    const bool more = level + 1 < levels_.size();
    const bool flat = levels_[level] == 0;
    const Ahead ahead = flat ? Ahead::kFlat : more && levels_[level + 1] < 0 ? Ahead::kQuarter : Ahead::kNothing;
    for_row_blocks<T>(shape_.batch, x_.blocks(), y_.stride(), [&](int64_t b, int64_t first, int64_t last, T* gaps) {
      const Patches<T> own = x_[b];
      const T* rest_y = rest_y_.data() + b * y_.padded();
      T sum[kBlocksPerTask * kBlock], cost[kBlocksPerTask * kBlock], next[kBlocksPerTask * kBlock];
      const int64_t shift = first * kBlock;
      kernels_.spend(own, first, last, y_[b], x_.dim(), static_cast<T>(levels_[level]), ahead, squared_,
                     accepted_.data() + b * y_.padded(), rest_y, gaps, sum, cost, next);
      T* rest = rest_x_.data() + b * x_.padded();
      const T* offered = offer_.data() + b * x_.padded();
      for (int64_t k = first; k < last; ++k) {
        double block_cost = 0;
        for (int64_t i = k * kBlock; i < (k + 1) * kBlock; ++i) {
          const T spent = offered[i] * sum[i - shift];
          rest[i] = spent < rest[i] ? rest[i] - spent : T{0};
          if (offered[i] != 0) block_cost += static_cast<double>(offered[i]) * static_cast<double>(cost[i - shift]);
        }
        row_cost_[static_cast<size_t>(b * x_.blocks() + k)] += block_cost;
      }
      if (!more) return;
      if (ahead == Ahead::kNothing) {
        const T all = total(rest_y, y_.padded());
        for (T& n : next) n = all;
      }
      offer(b, own, first, last, level + 1, next);
    });
  }

  static T total(const T* values, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(values[i]);
    return static_cast<T>(sum);
  }

  const TransportTable<T>& kernels_;
  const Shape shape_;
  const std::vector<double> levels_;
  const bool squared_;
  const PatchedBatch<T> x_, y_;
  T* const left_;
  T* const right_;
  // In the order of the blocks: what each point has left, what the present level offers and accepts.
  std::vector<T> rest_x_, rest_y_, offer_, accepted_;
  std::vector<double> row_cost_;
};

std::tuple<Tensor, Tensor, Tensor> approxmatch(const Tensor& x, const Tensor& y, int64_t first_level, bool zero_level,
                                               bool squared) {
  const Shape s = checked_pair(x, y);
  STD_TORCH_CHECK(first_level >= -1 && first_level <= 15, "pcdiff: first_level must be between -1 and 15, got ",
                  first_level);
  std::vector<double> levels = exponents(first_level, zero_level);
  const int64_t count = static_cast<int64_t>(levels.size());
  Tensor left = stable::new_empty(x, {s.batch, count, s.n});
  Tensor right = stable::new_empty(x, {s.batch, count, s.m});
  Tensor cost = stable::new_empty(x, {s.batch});
  const Tensor cx = stable::contiguous(x), cy = stable::contiguous(y);
  by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    std::vector<double> costs(static_cast<size_t>(s.batch));
    Matching<T>(cx, cy, s, std::move(levels), squared, write<T>(left), write<T>(right)).run(costs.data());
    T* out = write<T>(cost);
    for (int64_t b = 0; b < s.batch; ++b) out[b] = static_cast<T>(costs[static_cast<size_t>(b)]);
  });
  return {left, right, cost};
}

template <class T>
void softmin_typed(const Tensor& x, const Tensor& y, const Tensor& potential, Shape s, T scale, T* out) {
  const auto& kernels = transports<T>();
  const T* given = read<T>(potential);
  check_finite(given, s.batch * s.m, "potential");
  const PatchedBatch<T> bx(read<T>(x), s.batch, s.n, s.dim, "x"), by(read<T>(y), s.batch, s.m, s.dim, "y");
  constexpr T kLowest = std::numeric_limits<T>::lowest();
  std::vector<T> sorted(static_cast<size_t>(s.batch * by.padded()), kLowest);
  std::vector<T> highest(static_cast<size_t>(s.batch * by.stride()), kLowest);
  for (int64_t b = 0; b < s.batch; ++b) {
    const Patches<T> cloud = by[b];
    for (int64_t j = 0; j < s.m; ++j) {
      const T value = given[b * s.m + cloud.index[j]];
      T& top = highest[static_cast<size_t>(b * by.stride() + j / kBlock)];
      sorted[static_cast<size_t>(b * by.padded() + j)] = value;
      top = value > top ? value : top;
    }
  }
  for_row_blocks<T>(s.batch, bx.blocks(), by.stride(), [&](int64_t b, int64_t first, int64_t last, T* gaps) {
    const Patches<T> own = bx[b];
    const int64_t shift = first * kBlock;
    T top[kBlocksPerTask * kBlock], sum[kBlocksPerTask * kBlock];
    kernels.softmin(own, first, last, by[b], bx.dim(), scale, sorted.data() + b * by.padded(),
                    highest.data() + b * by.stride(), gaps, top, sum);
    for (int64_t i = shift; i < last * kBlock && i < s.n; ++i) {
      const double log_sum = std::log(static_cast<double>(sum[i - shift]));
      out[b * s.n + own.index[i]] =
          static_cast<T>(-(static_cast<double>(top[i - shift]) + static_cast<double>(scale) * log_sum));
    }
  });
}

Tensor softmin(const Tensor& x, const Tensor& y, const Tensor& potential, double scale) {
  const Shape s = checked_pair(x, y);
  STD_TORCH_CHECK(potential.dim() == 2 && potential.size(0) == s.batch && potential.size(1) == s.m,
                  "pcdiff: potential must hold one value for each point of y");
  STD_TORCH_CHECK(potential.scalar_type() == x.scalar_type(), "pcdiff: potential must have the dtype of x");
  STD_TORCH_CHECK(scale > 0 && std::isfinite(scale), "pcdiff: scale must be positive, got ", scale);
  Tensor out = stable::new_empty(x, {s.batch, s.n});
  const Tensor cx = stable::contiguous(x), cy = stable::contiguous(y), cp = stable::contiguous(potential);
  by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    STD_TORCH_CHECK(std::isfinite(T{1} / static_cast<T>(scale)), "pcdiff: scale is too small, got ", scale);
    softmin_typed<T>(cx, cy, cp, s, static_cast<T>(scale), write<T>(out));
  });
  return out;
}

}  // namespace
}  // namespace pcdiff

STABLE_TORCH_LIBRARY_FRAGMENT(pcdiff, m) {
  m.def(
      "approxmatch(Tensor x, Tensor y, int first_level, bool zero_level, bool squared) -> (Tensor left, Tensor right, "
      "Tensor cost)");
  m.def("softmin(Tensor x, Tensor y, Tensor potential, float scale) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pcdiff, CPU, m) {
  m.impl("approxmatch", TORCH_BOX(&pcdiff::approxmatch));
  m.impl("softmin", TORCH_BOX(&pcdiff::softmin));
}
