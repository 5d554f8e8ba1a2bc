// The earth mover's distance as torch sees it.
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "assignment.h"
#include "glue.h"

namespace pcdiff {
namespace {

struct Sizes {
  int64_t xs, ys, points, dim;
};

Sizes checked_sizes(const Tensor& x, const Tensor& y) {
  STD_TORCH_CHECK(x.dim() == 3 && y.dim() == 3, "pcdiff: x and y must have three dimensions");
  STD_TORCH_CHECK(x.size(1) == y.size(1) && x.size(1) > 0, "pcdiff: x and y must have the same number of points");
  STD_TORCH_CHECK(x.size(2) == y.size(2) && x.size(2) > 0, "pcdiff: x and y must have the same point dimension");
  STD_TORCH_CHECK(x.scalar_type() == y.scalar_type(), "pcdiff: x and y must have one dtype");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double,
                  "pcdiff: x and y must be float32 or float64");
  return {x.size(0), y.size(0), x.size(1), x.size(2)};
}

// Rounding to float32 must not lift a lower bound above the truth.
template <class T>
T rounded_down(double value) {
  const T rounded = static_cast<T>(value);
  return static_cast<double>(rounded) > value ? std::nextafter(rounded, -std::numeric_limits<T>::infinity()) : rounded;
}

// Rounding cost and bound to T stays within the tolerance; where the tolerance is no larger than that, only the
// optimum will do.
template <class T>
double attainable(double tolerance) {
  constexpr double kRounding = 8 * static_cast<double>(std::numeric_limits<T>::epsilon());
  return tolerance < 4 * kRounding ? 0 : tolerance - kRounding;
}

template <class T>
void write_result(const Assignment& found, T* cost, T* lower_bound) {
  *cost = static_cast<T>(found.cost);
  // Equal means optimal, and must stay so.
  *lower_bound = found.lower_bound == found.cost ? *cost : rounded_down<T>(found.lower_bound);
}

std::tuple<Tensor, Tensor, Tensor> assign_pairs(const Tensor& x, const Tensor& y,
                                                const std::optional<Tensor>& lengths, double tolerance) {
  const Sizes s = checked_sizes(x, y);
  STD_TORCH_CHECK(s.xs == s.ys, "pcdiff: x and y must have the same batch size");
  STD_TORCH_CHECK(tolerance >= 0, "pcdiff: tolerance must not be negative");
  const Tensor cx = stable::contiguous(x), cy = stable::contiguous(y);
  std::optional<Tensor> counts;
  if (lengths) {
    STD_TORCH_CHECK(lengths->dim() == 1 && lengths->size(0) == s.xs && lengths->scalar_type() == ScalarType::Long,
                    "pcdiff: lengths must be int64, one for each cloud");
    counts = stable::contiguous(*lengths);
  }
  Tensor assignment = stable::new_empty(x, {s.xs, s.points}, ScalarType::Long);
  Tensor cost = stable::new_empty(x, {s.xs});
  Tensor lower_bound = stable::new_empty(x, {s.xs});
  by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    check_finite(read<T>(cx), s.xs * s.points * s.dim, "x");
    check_finite(read<T>(cy), s.xs * s.points * s.dim, "y");
    const int64_t* count = counts ? read<int64_t>(*counts) : nullptr;
    for (int64_t b = 0; count && b < s.xs; ++b) {
      STD_TORCH_CHECK(count[b] >= 1 && count[b] <= s.points, "pcdiff: lengths must be in 1..", s.points, ", got ",
                      count[b]);
    }
    const Bidding bidding;
    parallel(s.xs, 1, [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b) {
        const int64_t n = count ? count[b] : s.points;
        int64_t* row = write<int64_t>(assignment) + b * s.points;
        const int64_t start = b * s.points * s.dim;
        const Assignment found =
            assign(bidding, read<T>(cx) + start, read<T>(cy) + start, n, s.dim, attainable<T>(tolerance), row);
        for (int64_t i = n; i < s.points; ++i) row[i] = i;
        write_result(found, write<T>(cost) + b, write<T>(lower_bound) + b);
      }
    });
  });
  return {assignment, cost, lower_bound};
}

std::tuple<Tensor, Tensor> assign_matrix(const Tensor& xs, const Tensor& ys, bool upper, double tolerance) {
  const Sizes s = checked_sizes(xs, ys);
  STD_TORCH_CHECK(tolerance >= 0, "pcdiff: tolerance must not be negative");
  const Tensor cx = stable::contiguous(xs), cy = stable::contiguous(ys);
  Tensor cost = stable::new_empty(xs, {s.xs, s.ys});
  Tensor lower_bound = stable::new_empty(xs, {s.xs, s.ys});
  by_dtype(xs, [&](auto zero) {
    using T = decltype(zero);
    check_finite(read<T>(cx), s.xs * s.points * s.dim, "xs");
    check_finite(read<T>(cy), s.ys * s.points * s.dim, "ys");
    T* costs = write<T>(cost);
    T* bounds = write<T>(lower_bound);
    std::vector<std::pair<int64_t, int64_t>> pairs;
    for (int64_t i = 0; i < s.xs; ++i) {
      for (int64_t j = 0; j < s.ys; ++j) {
        costs[i * s.ys + j] = bounds[i * s.ys + j] = T{0};
        if (!upper || j > i) pairs.emplace_back(i, j);
      }
    }
    const int64_t size = s.points * s.dim;
    const Bidding bidding;
    parallel(static_cast<int64_t>(pairs.size()), 1, [&](int64_t first, int64_t last) {
      std::vector<int64_t> row(static_cast<size_t>(s.points));
      for (int64_t p = first; p < last; ++p) {
        const auto [i, j] = pairs[static_cast<size_t>(p)];
        const Assignment found = assign(bidding, read<T>(cx) + i * size, read<T>(cy) + j * size, s.points, s.dim,
                                        attainable<T>(tolerance), row.data());
        write_result(found, costs + i * s.ys + j, bounds + i * s.ys + j);
      }
    });
  });
  return {cost, lower_bound};
}

}  // namespace
}  // namespace pcdiff

STABLE_TORCH_LIBRARY_FRAGMENT(pcdiff, m) {
  m.def(
      "assign(Tensor x, Tensor y, Tensor? lengths, float tolerance) -> (Tensor assignment, Tensor cost, "
      "Tensor lower_bound)");
  m.def("assign_matrix(Tensor xs, Tensor ys, bool upper, float tolerance) -> (Tensor cost, Tensor lower_bound)");
}

STABLE_TORCH_LIBRARY_IMPL(pcdiff, CPU, m) {
  m.impl("assign", TORCH_BOX(&pcdiff::assign_pairs));
  m.impl("assign_matrix", TORCH_BOX(&pcdiff::assign_matrix));
}
