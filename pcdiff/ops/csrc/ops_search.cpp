// Nearest neighbors and Chamfer as torch sees them: shapes, memory and threads. Only LibTorch's stable ABI is used,
// so one binary serves every torch from 2.10 on. Schemas are declared here; the Python side adds the fake kernels.
#include <algorithm>
#include <initializer_list>
#include <optional>
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

// A batch of clouds as it lies in memory.
template <class T>
struct Clouds {
  const T* values;
  int64_t batch, most, dim;
  const Lengths& lengths;
  const char* name;

  const T* operator[](int64_t b) const { return values + b * most * dim; }
};

template <class T>
BlockedBatch<T> blocked(const Clouds<T>& clouds) {
  BlockedBatch<T> out(clouds.batch, clouds.most, static_cast<int>(clouds.dim));
  std::atomic<bool> finite{true};
  parallel(clouds.batch, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      if (!out.fill(b, clouds[b], clouds.lengths[b])) finite = false;
    }
  });
  STD_TORCH_CHECK(finite, "pcdiff: ", clouds.name, " holds NaN or infinite coordinates");
  return out;
}

template <class T>
void check_each(const Clouds<T>& clouds) {
  for (int64_t b = 0; b < clouds.batch; ++b) check_finite(clouds[b], clouds.lengths[b] * clouds.dim, clouds.name);
}

// Where results go: `several` for each query, or 0 for the one nearest by its own kernel.
template <class T>
struct Output {
  T* squared_distance;
  int64_t* index;
  int64_t several;

  int64_t width() const { return several ? several : 1; }
};

// Rows past a cloud's length get distance 0 and index 0.
template <class T>
void clear_padding(const Clouds<T>& query, Output<T> out) {
  for (int64_t b = 0; b < query.batch; ++b) {
    const int64_t first = (b * query.most + query.lengths[b]) * out.width(), last = (b + 1) * query.most * out.width();
    std::fill(out.squared_distance + first, out.squared_distance + last, T{0});
    std::fill(out.index + first, out.index + last, int64_t{0});
  }
}

// The lists of k nearest that a thread keeps while it searches.
template <class T>
struct Lists {
  explicit Lists(int64_t k) : distances(static_cast<size_t>(k * kBlock)), indices(distances.size()) {}
  std::vector<T> distances;
  std::vector<Index<T>> indices;
};

template <class T>
void search_batch(const Clouds<T>& query, const BlockedBatch<T>& blocked_query, const BlockedBatch<T>& blocked_data,
                  Output<T> out) {
  const auto& kernels = searches<T>();
  const int64_t tasks = (blocked_query.blocks() + kBlocksPerTask - 1) / kBlocksPerTask;
  parallel(query.batch * tasks, 1, [&](int64_t first, int64_t last) {
    Lists<T> lists(out.several);
    for (int64_t task = first; task < last; ++task) {
      const int64_t b = task / tasks;
      const BlockedCloud<T> from = blocked_query[b], to = blocked_data[b];
      const int64_t begin = task % tasks * kBlocksPerTask;
      const int64_t end = begin + kBlocksPerTask < from.blocks ? begin + kBlocksPerTask : from.blocks;
      T* distance = out.squared_distance + b * query.most * out.width();
      int64_t* index = out.index + b * query.most * out.width();
      if (out.several) {
        kernels.search_several(from, begin, end, to, out.several, lists.distances.data(), lists.indices.data(),
                               distance, index);
      } else {
        kernels.search(from, begin, end, to, distance, index);
      }
    }
  });
}

template <class T>
void scan_batch(const Clouds<T>& query, const Clouds<T>& data, Output<T> out) {
  const auto& kernels = searches<T>();
  const int64_t blocks = (query.most + kBlock - 1) / kBlock;
  parallel(query.batch * blocks, 4, [&](int64_t first, int64_t last) {
    std::vector<T> scratch(static_cast<size_t>(kBlock * query.dim));
    Lists<T> lists(out.several);
    for (int64_t task = first; task < last; ++task) {
      const int64_t b = task / blocks, block = task % blocks, n = query.lengths[b], m = data.lengths[b];
      if (block * kBlock >= n) continue;
      T* distance = out.squared_distance + b * query.most * out.width();
      int64_t* index = out.index + b * query.most * out.width();
      if (out.several) {
        kernels.scan_several(query[b], n, block, block + 1, data[b], m, query.dim, scratch.data(), out.several,
                             lists.distances.data(), lists.indices.data(), distance, index);
      } else {
        kernels.scan(query[b], n, block, block + 1, data[b], m, query.dim, scratch.data(), distance, index);
      }
    }
  });
}

// One direction, or with `backward` both: what is prepared for one serves the other.
template <class T>
void run_typed(const Clouds<T>& x, const Clouds<T>& y, Output<T> forward, const Output<T>* backward) {
  clear_padding(x, forward);
  if (backward) clear_padding(y, *backward);
  if (x.dim <= kPrunedDims) {
    const auto bx = blocked(x), by = blocked(y);
    search_batch(x, bx, by, forward);
    if (backward) search_batch(y, by, bx, *backward);
  } else {
    check_each(x);
    check_each(y);
    scan_batch(x, y, forward);
    if (backward) scan_batch(y, x, *backward);
  }
}

struct Found {
  Tensor squared_distance, index;

  Found(const Tensor& like, std::initializer_list<int64_t> shape)
      : squared_distance(stable::new_empty(like, shape)), index(stable::new_empty(like, shape, ScalarType::Long)) {}
};

void run(const Tensor& x, const Tensor& y, Shape s, const OptionalTensor& x_lengths, const OptionalTensor& y_lengths,
         int64_t several, const Found& forward, const Found* backward) {
  const Tensor cx = stable::contiguous(x), cy = stable::contiguous(y);
  const Lengths xl(x_lengths, s.batch, s.n, "x_lengths"), yl(y_lengths, s.batch, s.m, "y_lengths");
  by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    const auto output = [several](const Found& f) {
      return Output<T>{write<T>(f.squared_distance), write<int64_t>(f.index), several};
    };
    const Clouds<T> x_clouds{read<T>(cx), s.batch, s.n, s.dim, xl, "x"};
    const Clouds<T> y_clouds{read<T>(cy), s.batch, s.m, s.dim, yl, "y"};
    if (backward) {
      const Output<T> back = output(*backward);
      run_typed(x_clouds, y_clouds, output(forward), &back);
    } else {
      run_typed(x_clouds, y_clouds, output(forward), static_cast<const Output<T>*>(nullptr));
    }
  });
}

std::tuple<Tensor, Tensor> nearest(const Tensor& x, const Tensor& y, const OptionalTensor& x_lengths,
                                   const OptionalTensor& y_lengths) {
  const Shape s = checked_pairs(x, y);
  const Found found(x, {s.batch, s.n});
  run(x, y, s, x_lengths, y_lengths, 0, found, nullptr);
  return {found.squared_distance, found.index};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> nearest_both(const Tensor& x, const Tensor& y,
                                                        const OptionalTensor& x_lengths,
                                                        const OptionalTensor& y_lengths) {
  const Shape s = checked_pairs(x, y);
  const Found there(x, {s.batch, s.n}), back(x, {s.batch, s.m});
  run(x, y, s, x_lengths, y_lengths, 0, there, &back);
  return {there.squared_distance, there.index, back.squared_distance, back.index};
}

std::tuple<Tensor, Tensor> knn(const Tensor& x, const Tensor& y, int64_t k, const OptionalTensor& x_lengths,
                               const OptionalTensor& y_lengths) {
  const Shape s = checked_pairs(x, y);
  STD_TORCH_CHECK(k >= 1 && k <= s.m, "pcdiff: k must be in 1..", s.m, ", got ", k);
  const Found found(x, {s.batch, s.n, k});
  run(x, y, s, x_lengths, y_lengths, k, found, nullptr);
  return {found.squared_distance, found.index};
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
    const Lengths n_points(std::nullopt, rows, s.n, "xs"), m_points(std::nullopt, columns, s.m, "ys");
    const auto bx = blocked(Clouds<T>{px, rows, s.n, s.dim, n_points, "xs"});
    const auto by = blocked(Clouds<T>{py, columns, s.m, s.dim, m_points, "ys"});
    parallel(count, 1, [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p) {
        const auto [i, j] = pairs[static_cast<size_t>(p)];
        const double there = kernels.search_sum(bx[i], by[j]) / n;
        const double back = kernels.search_sum(by[j], bx[i]) / m;
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
  const Shape s = checked_sets(xs, ys);
  Tensor out = stable::new_empty(xs, {s.batch, ys.size(0)});
  const Tensor cx = stable::contiguous(xs), cy = stable::contiguous(ys);
  by_dtype(xs, [&](auto zero) {
    using T = decltype(zero);
    chamfer_matrix_typed(cx, cy, s, upper, write<T>(out));
  });
  return out;
}

int64_t interface_version() { return kInterface; }

int64_t cpu_capability() { return static_cast<int64_t>(machine_capability()); }

}  // namespace
}  // namespace pcdiff

STABLE_TORCH_LIBRARY(pcdiff, m) {
  m.def("nearest(Tensor x, Tensor y, Tensor? x_lengths, Tensor? y_lengths) -> (Tensor squared_distance, Tensor index)");
  m.def(
      "nearest_both(Tensor x, Tensor y, Tensor? x_lengths, Tensor? y_lengths) -> (Tensor squared_distance, "
      "Tensor index, Tensor squared_distance_back, Tensor index_back)");
  m.def(
      "knn(Tensor x, Tensor y, int k, Tensor? x_lengths, Tensor? y_lengths) -> (Tensor squared_distance, "
      "Tensor index)");
  m.def("chamfer_matrix(Tensor xs, Tensor ys, bool upper) -> Tensor");
  m.def("cpu_capability() -> int");
  m.def("interface_version() -> int");
}

STABLE_TORCH_LIBRARY_IMPL(pcdiff, CPU, m) {
  m.impl("nearest", TORCH_BOX(&pcdiff::nearest));
  m.impl("nearest_both", TORCH_BOX(&pcdiff::nearest_both));
  m.impl("knn", TORCH_BOX(&pcdiff::knn));
  m.impl("chamfer_matrix", TORCH_BOX(&pcdiff::chamfer_matrix));
}

STABLE_TORCH_LIBRARY_IMPL(pcdiff, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&pcdiff::cpu_capability));
  m.impl("interface_version", TORCH_BOX(&pcdiff::interface_version));
}
