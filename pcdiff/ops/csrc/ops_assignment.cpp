// The earth mover's distance as torch sees it.
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "assignment.h"
#include "glue.h"

namespace pcdiff {
namespace {

void check_one_size(const Shape& s) {
  STD_TORCH_CHECK(s.n == s.m, "pcdiff: x and y must have the same number of points, got ", s.n, " and ", s.m);
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
                                                const OptionalTensor& lengths, double tolerance) {
  const Shape s = checked_pairs(x, y);
  check_one_size(s);
  STD_TORCH_CHECK(tolerance >= 0, "pcdiff: tolerance must not be negative");
  const Tensor cx = stable::contiguous(x), cy = stable::contiguous(y);
  const Lengths counts(lengths, s.batch, s.n, "lengths");
  Tensor assignment = stable::new_empty(x, {s.batch, s.n}, ScalarType::Long);
  Tensor cost = stable::new_empty(x, {s.batch});
  Tensor lower_bound = stable::new_empty(x, {s.batch});
  by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    check_finite(read<T>(cx), s.batch * s.n * s.dim, "x");
    check_finite(read<T>(cy), s.batch * s.n * s.dim, "y");
    const Bidding bidding;
    parallel(s.batch, 1, [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b) {
        const int64_t n = counts[b];
        int64_t* row = write<int64_t>(assignment) + b * s.n;
        const int64_t start = b * s.n * s.dim;
        const Assignment found =
            assign(bidding, read<T>(cx) + start, read<T>(cy) + start, n, s.dim, attainable<T>(tolerance), row);
        for (int64_t i = n; i < s.n; ++i) row[i] = i;
        write_result(found, write<T>(cost) + b, write<T>(lower_bound) + b);
      }
    });
  });
  return {assignment, cost, lower_bound};
}

std::tuple<Tensor, Tensor> assign_matrix(const Tensor& xs, const Tensor& ys, bool upper, double tolerance) {
  const Shape s = checked_sets(xs, ys);
  check_one_size(s);
  const int64_t columns = ys.size(0);
  STD_TORCH_CHECK(tolerance >= 0, "pcdiff: tolerance must not be negative");
  const Tensor cx = stable::contiguous(xs), cy = stable::contiguous(ys);
  Tensor cost = stable::new_empty(xs, {s.batch, columns});
  Tensor lower_bound = stable::new_empty(xs, {s.batch, columns});
  by_dtype(xs, [&](auto zero) {
    using T = decltype(zero);
    check_finite(read<T>(cx), s.batch * s.n * s.dim, "xs");
    check_finite(read<T>(cy), columns * s.n * s.dim, "ys");
    T* costs = write<T>(cost);
    T* bounds = write<T>(lower_bound);
    std::vector<std::pair<int64_t, int64_t>> pairs;
    for (int64_t i = 0; i < s.batch; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        costs[i * columns + j] = bounds[i * columns + j] = T{0};
        if (!upper || j > i) pairs.emplace_back(i, j);
      }
    }
    const int64_t size = s.n * s.dim;
    const Bidding bidding;
    parallel(static_cast<int64_t>(pairs.size()), 1, [&](int64_t first, int64_t last) {
      std::vector<int64_t> row(static_cast<size_t>(s.n));
      for (int64_t p = first; p < last; ++p) {
        const auto [i, j] = pairs[static_cast<size_t>(p)];
        const Assignment found = assign(bidding, read<T>(cx) + i * size, read<T>(cy) + j * size, s.n, s.dim,
                                        attainable<T>(tolerance), row.data());
        write_result(found, costs + i * columns + j, bounds + i * columns + j);
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
