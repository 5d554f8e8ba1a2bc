// Nearest neighbours and Chamfer as torch sees them: shapes, memory and threads. Only LibTorch's stable ABI is used,
// so one binary serves every torch from 2.10 on. Schemas are declared here; the Python side adds the fake kernels.
#include <tuple>
#include <utility>
#include <vector>

#include "glue.h"
#include "search.h"

namespace pcdiff {
namespace {

constexpr int64_t kPrunedDims = 3;
// Query blocks per task: long enough to outweigh the hand-over, short enough to share one cloud among threads.
constexpr int64_t kBlocksPerTask = 16;

struct Shape {
  int64_t batch, n, m, dim;
};

Shape checked_shape(const Tensor& x, const Tensor& y) {
  STD_TORCH_CHECK(x.dim() == 3 && y.dim() == 3, "pcdiff: x and y must have three dimensions");
  STD_TORCH_CHECK(x.size(2) == y.size(2) && x.size(2) > 0, "pcdiff: x and y must have the same point dimension");
  STD_TORCH_CHECK(x.size(1) > 0 && y.size(1) > 0, "pcdiff: clouds must not be empty");
  STD_TORCH_CHECK(x.scalar_type() == y.scalar_type(), "pcdiff: x and y must have one dtype");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double,
                  "pcdiff: x and y must be float32 or float64");
  // The float kernels keep indices in 32 bits.
  STD_TORCH_CHECK(x.size(1) < (int64_t{1} << 31) - 64 && y.size(1) < (int64_t{1} << 31) - 64,
                  "pcdiff: clouds of 2^31 points or more are not supported");
  return {x.size(0), x.size(1), y.size(1), x.size(2)};
}

template <class T>
BlockedBatch<T> blocked(const T* clouds, int64_t batch, int64_t count, int64_t dim, const char* name) {
  BlockedBatch<T> out(batch, count, static_cast<int>(dim));
  std::atomic<bool> finite{true};
  parallel(batch, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      if (!out.fill(b, clouds + b * count * dim)) finite = false;
    }
  });
  STD_TORCH_CHECK(finite, "pcdiff: ", name, " holds NaN or infinite coordinates");
  return out;
}

template <class T>
struct Output {
  T* squared_distance;
  int64_t* index;
};

template <class T>
void search_batch(const SearchTable<T>& kernels, const BlockedBatch<T>& query,
                  const BlockedBatch<T>& data, int64_t batch, int64_t count, Output<T> out) {
  const int64_t blocks = query.blocks();
  const int64_t tasks = (blocks + kBlocksPerTask - 1) / kBlocksPerTask;
  parallel(batch * tasks, 1, [&](int64_t first, int64_t last) {
    std::vector<T> bounds(static_cast<size_t>(data.stride()));
    for (int64_t task = first; task < last; ++task) {
      const int64_t b = task / tasks;
      const int64_t begin = task % tasks * kBlocksPerTask;
      const int64_t end = begin + kBlocksPerTask < blocks ? begin + kBlocksPerTask : blocks;
      kernels.search(query[b], begin, end, data[b], bounds.data(), out.squared_distance + b * count,
                     out.index + b * count);
    }
  });
}

template <class T>
void scan_batch(const SearchTable<T>& kernels, const T* query, int64_t n, const T* data, int64_t m, int64_t batch,
                int64_t dim, Output<T> out) {
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  parallel(batch * blocks, 4, [&](int64_t first, int64_t last) {
    std::vector<T> scratch(static_cast<size_t>(kBlock * dim));
    for (int64_t task = first; task < last; ++task) {
      const int64_t b = task / blocks, block = task % blocks;
      kernels.scan(query + b * n * dim, n, block, block + 1, data + b * m * dim, m, dim, scratch.data(),
                   out.squared_distance + b * n, out.index + b * n);
    }
  });
}

template <class T>
void nearest_typed(const Tensor& x, const Tensor& y, Shape s, const Output<T>* forward, const Output<T>* backward) {
  const auto& kernels = searches<T>();
  const T* px = read<T>(x);
  const T* py = read<T>(y);
  if (s.dim <= kPrunedDims) {
    const auto bx = blocked(px, s.batch, s.n, s.dim, "x");
    const auto by = blocked(py, s.batch, s.m, s.dim, "y");
    search_batch(kernels, bx, by, s.batch, s.n, *forward);
    if (backward) search_batch(kernels, by, bx, s.batch, s.m, *backward);
  } else {
    check_finite(px, s.batch * s.n * s.dim, "x");
    check_finite(py, s.batch * s.m * s.dim, "y");
    scan_batch(kernels, px, s.n, py, s.m, s.batch, s.dim, *forward);
    if (backward) scan_batch(kernels, py, s.m, px, s.n, s.batch, s.dim, *backward);
  }
}

void run_nearest(const Tensor& x, const Tensor& y, Shape s, const Tensor& d, const Tensor& i, const Tensor* d_back,
                 const Tensor* i_back) {
  const Tensor cx = stable::contiguous(x), cy = stable::contiguous(y);
  by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    const auto output = [](const Tensor& distance, const Tensor& index) {
      return Output<T>{write<T>(distance), write<int64_t>(index)};
    };
    const Output<T> forward = output(d, i);
    if (d_back) {
      const Output<T> backward = output(*d_back, *i_back);
      nearest_typed<T>(cx, cy, s, &forward, &backward);
    } else {
      nearest_typed<T>(cx, cy, s, &forward, nullptr);
    }
  });
}

std::tuple<Tensor, Tensor> nearest(const Tensor& x, const Tensor& y) {
  const Shape s = checked_shape(x, y);
  STD_TORCH_CHECK(y.size(0) == s.batch, "pcdiff: x and y must have the same batch size");
  Tensor distance = stable::new_empty(x, {s.batch, s.n});
  Tensor index = stable::new_empty(x, {s.batch, s.n}, ScalarType::Long);
  run_nearest(x, y, s, distance, index, nullptr, nullptr);
  return {distance, index};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> nearest_both(const Tensor& x, const Tensor& y) {
  const Shape s = checked_shape(x, y);
  STD_TORCH_CHECK(y.size(0) == s.batch, "pcdiff: x and y must have the same batch size");
  Tensor distance = stable::new_empty(x, {s.batch, s.n});
  Tensor index = stable::new_empty(x, {s.batch, s.n}, ScalarType::Long);
  Tensor distance_back = stable::new_empty(x, {s.batch, s.m});
  Tensor index_back = stable::new_empty(x, {s.batch, s.m}, ScalarType::Long);
  run_nearest(x, y, s, distance, index, &distance_back, &index_back);
  return {distance, index, distance_back, index_back};
}

template <class T>
void chamfer_matrix_typed(const Tensor& xs, const Tensor& ys, Shape s, bool upper, T* out) {
  const auto& kernels = searches<T>();
  const T* px = read<T>(xs);
  const T* py = read<T>(ys);
  const int64_t rows = s.batch, columns = ys.size(0);
  std::vector<std::pair<int64_t, int64_t>> pairs;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = upper ? i + 1 : 0; j < columns; ++j) pairs.emplace_back(i, j);
    for (int64_t j = 0; upper && j <= i && j < columns; ++j) out[i * columns + j] = T{0};
  }
  const int64_t count = static_cast<int64_t>(pairs.size());
  const double n = static_cast<double>(s.n), m = static_cast<double>(s.m);
  if (s.dim <= kPrunedDims) {
    const auto bx = blocked(px, rows, s.n, s.dim, "xs");
    const auto by = blocked(py, columns, s.m, s.dim, "ys");
    parallel(count, 1, [&](int64_t first, int64_t last) {
      std::vector<T> bounds(static_cast<size_t>(bx.stride() > by.stride() ? bx.stride() : by.stride()));
      for (int64_t p = first; p < last; ++p) {
        const auto [i, j] = pairs[static_cast<size_t>(p)];
        const double there = kernels.search_sum(bx[i], by[j], bounds.data()) / n;
        const double back = kernels.search_sum(by[j], bx[i], bounds.data()) / m;
        out[i * columns + j] = static_cast<T>(there + back);
      }
    });
    return;
  }
  check_finite(px, rows * s.n * s.dim, "xs");
  check_finite(py, columns * s.m * s.dim, "ys");
  parallel(count, 1, [&](int64_t first, int64_t last) {
    std::vector<T> scratch(static_cast<size_t>(kBlock * s.dim));
    std::vector<T> distance(static_cast<size_t>(s.n > s.m ? s.n : s.m));
    std::vector<int64_t> index(distance.size());
    const auto mean = [&](const T* query, int64_t queries, const T* data, int64_t points) {
      const int64_t blocks = (queries + kBlock - 1) / kBlock;
      kernels.scan(query, queries, 0, blocks, data, points, s.dim, scratch.data(), distance.data(), index.data());
      double sum = 0;
      for (int64_t q = 0; q < queries; ++q) sum += static_cast<double>(distance[static_cast<size_t>(q)]);
      return sum / static_cast<double>(queries);
    };
    for (int64_t p = first; p < last; ++p) {
      const auto [i, j] = pairs[static_cast<size_t>(p)];
      const T* x = px + i * s.n * s.dim;
      const T* y = py + j * s.m * s.dim;
      out[i * columns + j] = static_cast<T>(mean(x, s.n, y, s.m) + mean(y, s.m, x, s.n));
    }
  });
}

Tensor chamfer_matrix(const Tensor& xs, const Tensor& ys, bool upper) {
  const Shape s = checked_shape(xs, ys);
  Tensor out = stable::new_empty(xs, {s.batch, ys.size(0)});
  const Tensor cx = stable::contiguous(xs), cy = stable::contiguous(ys);
  by_dtype(xs, [&](auto zero) {
    using T = decltype(zero);
    chamfer_matrix_typed(cx, cy, s, upper, write<T>(out));
  });
  return out;
}

int64_t cpu_capability() { return static_cast<int64_t>(machine_capability()); }

}  // namespace
}  // namespace pcdiff

STABLE_TORCH_LIBRARY(pcdiff, m) {
  m.def("nearest(Tensor x, Tensor y) -> (Tensor squared_distance, Tensor index)");
  m.def(
      "nearest_both(Tensor x, Tensor y) -> (Tensor squared_distance, Tensor index, Tensor squared_distance_back, "
      "Tensor index_back)");
  m.def("chamfer_matrix(Tensor xs, Tensor ys, bool upper) -> Tensor");
  m.def("cpu_capability() -> int");
}

STABLE_TORCH_LIBRARY_IMPL(pcdiff, CPU, m) {
  m.impl("nearest", TORCH_BOX(&pcdiff::nearest));
  m.impl("nearest_both", TORCH_BOX(&pcdiff::nearest_both));
  m.impl("chamfer_matrix", TORCH_BOX(&pcdiff::chamfer_matrix));
}

STABLE_TORCH_LIBRARY_IMPL(pcdiff, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&pcdiff::cpu_capability));
}
