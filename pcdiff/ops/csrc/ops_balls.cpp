// The ball query as torch sees it: shapes, memory and threads.
#include <algorithm>
#include <cmath>
#include <vector>

#include "balls.h"
#include "columns.h"
#include "glue.h"

namespace pcdiff {
namespace {

// Centers a task: long enough to outweigh the hand-over, short enough to share one cloud among threads.
constexpr int64_t kCentersPerTask = 64;

template <class T>
void ball_query_typed(const Tensor& x, const Tensor& y, Shape s, const Lengths& x_lengths, const Lengths& y_lengths,
                      T radius, int64_t k, int64_t* out) {
  const T square = radius * radius;
  const int64_t most = column_stride(s.m) * s.dim;
  std::vector<T> columns(static_cast<size_t>(s.batch * most));
  for (int64_t b = 0; b < s.batch; ++b) {
    check_finite(read<T>(x) + b * s.n * s.dim, x_lengths[b] * s.dim, "x");
    check_finite(read<T>(y) + b * s.m * s.dim, y_lengths[b] * s.dim, "y");
  }
  parallel(s.batch, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      to_columns(read<T>(y) + b * s.m * s.dim, y_lengths[b], s.dim, columns.data() + b * most);
    }
  });
  const auto& kernels = balls<T>();
  const int64_t tasks = (s.n + kCentersPerTask - 1) / kCentersPerTask;
  parallel(s.batch * tasks, 1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t b = task / tasks, begin = task % tasks * kCentersPerTask;
      const int64_t end = std::min(begin + kCentersPerTask, s.n), real = std::clamp(x_lengths[b], begin, end);
      int64_t* const row = out + (b * s.n + begin) * k;
      kernels.within(read<T>(x) + (b * s.n + begin) * s.dim, real - begin, columns.data() + b * most, y_lengths[b],
                     column_stride(y_lengths[b]), s.dim, square, k, row);
      std::fill(row + (real - begin) * k, row + (end - begin) * k, int64_t{0});
    }
  });
}

Tensor ball_query(const Tensor& x, const Tensor& y, double radius, int64_t k, const OptionalTensor& x_lengths,
                  const OptionalTensor& y_lengths) {
  const Shape s = checked_pairs(x, y);
  STD_TORCH_CHECK(radius > 0 && std::isfinite(radius), "pcdiff: radius must be positive and finite, got ", radius);
  STD_TORCH_CHECK(k >= 1, "pcdiff: k must be at least 1, got ", k);
  const Lengths xl(x_lengths, s.batch, s.n, "x_lengths"), yl(y_lengths, s.batch, s.m, "y_lengths");
  const Tensor cx = stable::contiguous(x), cy = stable::contiguous(y);
  Tensor out = stable::new_empty(x, {s.batch, s.n, k}, ScalarType::Long);
  by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    ball_query_typed<T>(cx, cy, s, xl, yl, static_cast<T>(radius), k, write<int64_t>(out));
  });
  return out;
}

}  // namespace
}  // namespace pcdiff

STABLE_TORCH_LIBRARY_FRAGMENT(pcdiff, m) {
  m.def("ball_query(Tensor x, Tensor y, float radius, int k, Tensor? x_lengths, Tensor? y_lengths) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pcdiff, CPU, m) { m.impl("ball_query", TORCH_BOX(&pcdiff::ball_query)); }
