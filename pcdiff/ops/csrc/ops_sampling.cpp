// Farthest point sampling as torch sees it: shapes, memory and threads.
#include <optional>
#include <vector>

#include "columns.h"
#include "glue.h"
#include "sampling.h"

namespace pcdiff {
namespace {

struct Request {
  int64_t batch, n, dim, k;
  const int64_t* start;
  const int64_t* lengths;  // null where every cloud is whole
  bool legacy;
};

void check_values(const Request& r) {
  for (int64_t b = 0; b < r.batch; ++b) {
    const int64_t length = r.lengths ? r.lengths[b] : r.n;
    STD_TORCH_CHECK(length >= 1 && length <= r.n, "pcdiff: lengths must be between 1 and ", r.n, ", got ", length);
    STD_TORCH_CHECK(r.legacy || r.k <= length, "pcdiff: k must be at most the number of points, ", length, ", got ",
                    r.k);
    STD_TORCH_CHECK(r.start[b] >= 0 && r.start[b] < length, "pcdiff: start must be between 0 and ", length - 1,
                    ", got ", r.start[b]);
  }
}

template <class T>
void farthest_points_typed(const T* clouds, const Request& r, int64_t* out) {
  const auto& kernels = samplings<T>();
  parallel(r.batch, 1, [&](int64_t first, int64_t last) {
    const int64_t stride = column_stride(r.n);
    std::vector<T> points(static_cast<size_t>(stride * r.dim)), distance(static_cast<size_t>(stride));
    for (int64_t b = first; b < last; ++b) {
      const int64_t length = r.lengths ? r.lengths[b] : r.n;
      to_columns(clouds + b * r.n * r.dim, length, r.dim, points.data());
      kernels.farthest(points.data(), length, column_stride(length), r.dim, r.k, r.start[b], r.legacy, distance.data(),
                       out + b * r.k);
    }
  });
}

Tensor farthest_points(const Tensor& x, int64_t k, const Tensor& start, const std::optional<Tensor>& lengths,
                       bool legacy) {
  STD_TORCH_CHECK(x.dim() == 3 && x.size(1) > 0 && x.size(2) > 0, "pcdiff: x must hold clouds of points");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double,
                  "pcdiff: x must be float32 or float64");
  STD_TORCH_CHECK(x.size(1) < (int64_t{1} << 31) - 64, "pcdiff: clouds of 2^31 points or more are not supported");
  STD_TORCH_CHECK(k >= 1, "pcdiff: k must be positive, got ", k);
  const auto check_counts = [&](const Tensor& values, const char* name) {
    STD_TORCH_CHECK(values.dim() == 1 && values.size(0) == x.size(0) && values.scalar_type() == ScalarType::Long,
                    "pcdiff: ", name, " must be int64 with one value for each cloud");
    return stable::contiguous(values);
  };
  const Tensor starts = check_counts(start, "start");
  const Tensor counts = lengths ? check_counts(*lengths, "lengths") : starts;
  const Request request{
      x.size(0), x.size(1), x.size(2), k, read<int64_t>(starts), lengths ? read<int64_t>(counts) : nullptr, legacy};
  check_values(request);
  Tensor out = stable::new_empty(x, {request.batch, k}, ScalarType::Long);
  const Tensor clouds = stable::contiguous(x);
  by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    check_finite(read<T>(clouds), request.batch * request.n * request.dim, "x");
    farthest_points_typed<T>(read<T>(clouds), request, write<int64_t>(out));
  });
  return out;
}

}  // namespace
}  // namespace pcdiff

STABLE_TORCH_LIBRARY_FRAGMENT(pcdiff, m) {
  m.def("farthest_points(Tensor x, int k, Tensor start, Tensor? lengths, bool legacy) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pcdiff, CPU, m) { m.impl("farthest_points", TORCH_BOX(&pcdiff::farthest_points)); }
