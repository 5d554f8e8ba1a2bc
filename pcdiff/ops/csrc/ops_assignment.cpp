// The earth mover's distance as torch sees it.
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "assignment.h"
#include "glue.h"

namespace pcdiff {
namespace {

// No lower bound is above it: the pair is solved to the end.
constexpr double kNoBound = std::numeric_limits<double>::infinity();

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

// The search must go on until its bound is above `enough` as a T too: what is returned is `rounded_down`.
template <class T>
double enough_as(double enough) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (!std::isfinite(enough)) return enough;
  T next = static_cast<T>(enough);
  if (static_cast<double>(next) <= enough) next = std::nextafter(next, std::numeric_limits<T>::infinity());
  return std::nextafter(static_cast<double>(next), -kInfinity);
}

template <class T>
void write_result(const Assignment& found, T* cost, T* lower_bound) {
  *cost = static_cast<T>(found.cost);
  // Equal means optimal, and must stay so.
  *lower_bound = found.lower_bound == found.cost ? *cost : rounded_down<T>(found.lower_bound);
}

std::tuple<Tensor, Tensor, Tensor> assign_pairs(const Tensor& x, const Tensor& y, const OptionalTensor& lengths,
                                                double tolerance) {
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
        const Assignment found = assign(bidding, read<T>(cx) + start, read<T>(cy) + start, n, s.dim,
                                        attainable<T>(tolerance), kNoBound, row);
        for (int64_t i = n; i < s.n; ++i) row[i] = i;
        write_result(found, write<T>(cost) + b, write<T>(lower_bound) + b);
      }
    });
  });
  return {assignment, cost, lower_bound};
}

// One pair of clouds out of two sets, where its result goes, and the lower bound at which it need not be solved further.
struct Job {
  int64_t row, column, place;
  double enough;
};

void run_jobs(const Tensor& xs, const Tensor& ys, const Shape& s, const std::vector<Job>& jobs, double tolerance,
              const Tensor& cost, const Tensor& lower_bound) {
  STD_TORCH_CHECK(tolerance >= 0, "pcdiff: tolerance must not be negative");
  const Tensor cx = stable::contiguous(xs), cy = stable::contiguous(ys);
  by_dtype(xs, [&](auto zero) {
    using T = decltype(zero);
    const int64_t size = s.n * s.dim;
    check_finite(read<T>(cx), s.batch * size, "xs");
    check_finite(read<T>(cy), ys.size(0) * size, "ys");
    const Bidding bidding;
    parallel(static_cast<int64_t>(jobs.size()), 1, [&](int64_t first, int64_t last) {
      std::vector<int64_t> assignment(static_cast<size_t>(s.n));
      for (int64_t k = first; k < last; ++k) {
        const Job& job = jobs[static_cast<size_t>(k)];
        const Assignment found = assign(bidding, read<T>(cx) + job.row * size, read<T>(cy) + job.column * size, s.n,
                                        s.dim, attainable<T>(tolerance), enough_as<T>(job.enough), assignment.data());
        write_result(found, write<T>(cost) + job.place, write<T>(lower_bound) + job.place);
      }
    });
  });
}

std::tuple<Tensor, Tensor> assign_matrix(const Tensor& xs, const Tensor& ys, bool upper, double tolerance) {
  const Shape s = checked_sets(xs, ys);
  check_one_size(s);
  const int64_t columns = ys.size(0);
  const Tensor cost = stable::new_zeros(xs, {s.batch, columns});
  const Tensor lower_bound = stable::new_zeros(xs, {s.batch, columns});
  std::vector<Job> jobs;
  for (int64_t i = 0; i < s.batch; ++i) {
    for (int64_t j = upper ? i + 1 : 0; j < columns; ++j) jobs.push_back({i, j, i * columns + j, kNoBound});
  }
  run_jobs(xs, ys, s, jobs, tolerance, cost, lower_bound);
  return {cost, lower_bound};
}

std::tuple<Tensor, Tensor> assign_listed(const Tensor& xs, const Tensor& ys, const Tensor& pairs, const Tensor& enough,
                                         double tolerance) {
  const Shape s = checked_sets(xs, ys);
  check_one_size(s);
  STD_TORCH_CHECK(pairs.scalar_type() == ScalarType::Long && pairs.dim() == 2 && pairs.size(1) == 2,
                  "pcdiff: pairs must be an int64 tensor (K, 2)");
  const int64_t count = pairs.size(0);
  STD_TORCH_CHECK(enough.scalar_type() == ScalarType::Double && enough.dim() == 1 && enough.size(0) == count,
                  "pcdiff: enough must be a float64 tensor (K,)");
  const Tensor listed = stable::contiguous(pairs), limits = stable::contiguous(enough);
  std::vector<Job> jobs;
  for (int64_t k = 0; k < count; ++k) {
    const int64_t i = read<int64_t>(listed)[2 * k], j = read<int64_t>(listed)[2 * k + 1];
    STD_TORCH_CHECK(i >= 0 && i < s.batch && j >= 0 && j < ys.size(0), "pcdiff: pairs must lie in 0..", s.batch - 1,
                    " and 0..", ys.size(0) - 1, ", got ", i, " and ", j);
    jobs.push_back({i, j, k, read<double>(limits)[k]});
  }
  Tensor cost = stable::new_empty(xs, {count}), lower_bound = stable::new_empty(xs, {count});
  run_jobs(xs, ys, s, jobs, tolerance, cost, lower_bound);
  return {cost, lower_bound};
}

}  // namespace
}  // namespace pcdiff

STABLE_TORCH_LIBRARY_FRAGMENT(pcdiff, m) {
  m.def(
      "assign(Tensor x, Tensor y, Tensor? lengths, float tolerance) -> (Tensor assignment, Tensor cost, "
      "Tensor lower_bound)");
  m.def(
      "assign_listed(Tensor xs, Tensor ys, Tensor pairs, Tensor enough, float tolerance) -> (Tensor cost, "
      "Tensor lower_bound)");
  m.def("assign_matrix(Tensor xs, Tensor ys, bool upper, float tolerance) -> (Tensor cost, Tensor lower_bound)");
}

STABLE_TORCH_LIBRARY_IMPL(pcdiff, CPU, m) {
  m.impl("assign", TORCH_BOX(&pcdiff::assign_pairs));
  m.impl("assign_listed", TORCH_BOX(&pcdiff::assign_listed));
  m.impl("assign_matrix", TORCH_BOX(&pcdiff::assign_matrix));
}
