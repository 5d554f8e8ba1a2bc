// The CUDA kernels as torch sees them: shapes, memory, device and stream. The schemas are the CPU extension's; only
// LibTorch's stable ABI is used. Nothing here waits for the device, so every op can be captured in a CUDA graph; that
// coordinates are finite and lengths in range, the Python side asks first.
#include <cuda_runtime_api.h>

#include <cmath>
#include <optional>
#include <tuple>

#include "../glue.h"
#include "kernels.h"

namespace pcdiff {
namespace {

using gpu::Stream;

constexpr int64_t kMostPoints = (int64_t{1} << 31) - 64;  // indices within a cloud have 32 bits
constexpr int64_t kMostDims = 1 << 20;

void check_clouds(const Tensor& x) {
  STD_TORCH_CHECK(x.is_cuda(), "pcdiff: clouds must be CUDA tensors");
  STD_TORCH_CHECK(x.dim() == 3, "pcdiff: clouds must have three dimensions");
  STD_TORCH_CHECK(x.size(1) > 0 && x.size(2) > 0, "pcdiff: clouds must not be empty");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double,
                  "pcdiff: clouds must be float32 or float64");
  STD_TORCH_CHECK(x.size(1) < kMostPoints, "pcdiff: clouds of 2^31 points or more are not supported");
  STD_TORCH_CHECK(x.size(2) < kMostDims, "pcdiff: points of 2^20 coordinates or more are not supported");
}

void check_pair(const Tensor& x, const Tensor& y) {
  check_clouds(x);
  check_clouds(y);
  STD_TORCH_CHECK(x.size(2) == y.size(2), "pcdiff: clouds must have the same point dimension");
  STD_TORCH_CHECK(x.scalar_type() == y.scalar_type(), "pcdiff: clouds must have one dtype");
  STD_TORCH_CHECK(x.get_device_index() == y.get_device_index(), "pcdiff: clouds must be on one device");
}

void check_batch(const Tensor& x, const Tensor& y) {
  STD_TORCH_CHECK(x.size(0) == y.size(0), "pcdiff: x and y must have the same batch size");
}

// An int64 tensor with one value for each cloud of `x`.
Tensor counts(const Tensor& values, const Tensor& x, const char* name) {
  STD_TORCH_CHECK(values.is_cuda() && values.get_device_index() == x.get_device_index(), "pcdiff: ", name,
                  " must be on the device of the clouds");
  STD_TORCH_CHECK(values.dim() == 1 && values.size(0) == x.size(0) && values.scalar_type() == ScalarType::Long,
                  "pcdiff: ", name, " must be int64 with one value for each cloud");
  return stable::contiguous(values);
}

std::optional<Tensor> counts(const std::optional<Tensor>& values, const Tensor& x, const char* name) {
  return values ? std::optional<Tensor>(counts(*values, x, name)) : std::nullopt;
}

const int64_t* read_counts(const std::optional<Tensor>& values) { return values ? read<int64_t>(*values) : nullptr; }

// The device of a tensor made the current one, and its current stream.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& x) : guard_(x.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
    stream_ = static_cast<Stream>(stream);
  }

  Stream stream() const { return stream_; }

  // To be called after the launches.
  void check(const char* op) const {
    const cudaError_t error = cudaGetLastError();
    STD_TORCH_CHECK(error == cudaSuccess, "pcdiff: ", op, " could not be launched: ", cudaGetErrorString(error));
  }

 private:
  stable::accelerator::DeviceGuard guard_;
  Stream stream_ = nullptr;
};

template <class T>
void search(const Tensor& x, const Tensor& y, const std::optional<Tensor>& x_lengths,
            const std::optional<Tensor>& y_lengths, const Tensor& distance, const Tensor& index, Stream stream) {
  const int64_t n = x.size(1), m = y.size(1);
  const int dim = static_cast<int>(x.size(2));
  gpu::launch_nearest<T>({read<T>(x), read<T>(y), x.size(0), n, m, n * dim, m * dim, dim, read_counts(x_lengths),
                          read_counts(y_lengths), write<T>(distance), write<int64_t>(index)},
                         stream);
}

std::tuple<Tensor, Tensor> nearest(const Tensor& x, const Tensor& y, const std::optional<Tensor>& x_lengths,
                                   const std::optional<Tensor>& y_lengths) {
  check_pair(x, y);
  check_batch(x, y);
  const OnDevice device(x);
  const Tensor cx = stable::contiguous(x), cy = stable::contiguous(y);
  const auto nx = counts(x_lengths, x, "x_lengths"), ny = counts(y_lengths, y, "y_lengths");
  Tensor distance = stable::new_empty(x, {x.size(0), x.size(1)});
  Tensor index = stable::new_empty(x, {x.size(0), x.size(1)}, ScalarType::Long);
  by_dtype(x, [&](auto zero) { search<decltype(zero)>(cx, cy, nx, ny, distance, index, device.stream()); });
  device.check("nearest");
  return {distance, index};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> nearest_both(const Tensor& x, const Tensor& y,
                                                        const std::optional<Tensor>& x_lengths,
                                                        const std::optional<Tensor>& y_lengths) {
  check_pair(x, y);
  check_batch(x, y);
  const OnDevice device(x);
  const Tensor cx = stable::contiguous(x), cy = stable::contiguous(y);
  const auto nx = counts(x_lengths, x, "x_lengths"), ny = counts(y_lengths, y, "y_lengths");
  Tensor distance = stable::new_empty(x, {x.size(0), x.size(1)});
  Tensor index = stable::new_empty(x, {x.size(0), x.size(1)}, ScalarType::Long);
  Tensor distance_back = stable::new_empty(y, {y.size(0), y.size(1)});
  Tensor index_back = stable::new_empty(y, {y.size(0), y.size(1)}, ScalarType::Long);
  by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    search<T>(cx, cy, nx, ny, distance, index, device.stream());
    search<T>(cy, cx, ny, nx, distance_back, index_back, device.stream());
  });
  device.check("nearest_both");
  return {distance, index, distance_back, index_back};
}

std::tuple<Tensor, Tensor> knn(const Tensor& x, const Tensor& y, int64_t k, const std::optional<Tensor>& x_lengths,
                               const std::optional<Tensor>& y_lengths) {
  check_pair(x, y);
  check_batch(x, y);
  STD_TORCH_CHECK(k >= 1 && k <= y.size(1), "pcdiff: k must be between 1 and ", y.size(1), ", got ", k);
  const OnDevice device(x);
  const Tensor cx = stable::contiguous(x), cy = stable::contiguous(y);
  const auto nx = counts(x_lengths, x, "x_lengths"), ny = counts(y_lengths, y, "y_lengths");
  Tensor distance = stable::new_empty(x, {x.size(0), x.size(1), k});
  Tensor index = stable::new_empty(x, {x.size(0), x.size(1), k}, ScalarType::Long);
  by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    gpu::launch_knn<T>({read<T>(cx), read<T>(cy), x.size(0), x.size(1), y.size(1), static_cast<int>(x.size(2)), k,
                        read_counts(nx), read_counts(ny), write<T>(distance), write<int64_t>(index)},
                       device.stream());
  });
  device.check("knn");
  return {distance, index};
}

Tensor ball_query(const Tensor& x, const Tensor& y, double radius, int64_t k, const std::optional<Tensor>& x_lengths,
                  const std::optional<Tensor>& y_lengths) {
  check_pair(x, y);
  check_batch(x, y);
  STD_TORCH_CHECK(radius > 0 && std::isfinite(radius), "pcdiff: radius must be positive and finite, got ", radius);
  STD_TORCH_CHECK(k >= 1, "pcdiff: k must be at least 1, got ", k);
  const OnDevice device(x);
  const Tensor cx = stable::contiguous(x), cy = stable::contiguous(y);
  const auto nx = counts(x_lengths, x, "x_lengths"), ny = counts(y_lengths, y, "y_lengths");
  Tensor out = stable::new_empty(x, {x.size(0), x.size(1), k}, ScalarType::Long);
  by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    const T rounded = static_cast<T>(radius);
    gpu::launch_balls<T>({read<T>(cx), read<T>(cy), x.size(0), x.size(1), y.size(1), static_cast<int>(x.size(2)),
                          rounded * rounded, k, read_counts(nx), read_counts(ny), write<int64_t>(out)},
                         device.stream());
  });
  device.check("ball_query");
  return out;
}

std::tuple<Tensor, Tensor> voxels(const Tensor& coords, int64_t resolution, const std::optional<Tensor>& lengths) {
  check_clouds(coords);
  STD_TORCH_CHECK(coords.size(2) == 3, "pcdiff: coords must have 3 coordinates a point, got ", coords.size(2));
  STD_TORCH_CHECK(resolution >= 1 && resolution <= 1024, "pcdiff: resolution must be in 1..1024, got ", resolution);
  const OnDevice device(coords);
  const Tensor contiguous = stable::contiguous(coords);
  const auto n = counts(lengths, coords, "lengths");
  const int64_t batch = coords.size(0), points = coords.size(1);
  const Tensor inside = stable::new_zeros(coords, {batch, resolution * resolution * resolution}, ScalarType::Int);
  Tensor index = stable::new_empty(coords, {batch, points}, ScalarType::Long);
  Tensor count = stable::new_empty(coords, {batch, points}, ScalarType::Long);
  by_dtype(coords, [&](auto zero) {
    using T = decltype(zero);
    gpu::launch_voxels<T>({read<T>(contiguous), batch, points, resolution, read_counts(n), write<int>(inside),
                           write<int64_t>(index), write<int64_t>(count)},
                          device.stream());
  });
  device.check("voxels");
  return {index, count};
}

// Pairs of clouds too large for a block each: row by row, every pair's distances to the nearest, then their means.
// The memory for those is bounded by taking some columns at a time.
template <class T>
void chamfer_of_large(const Tensor& xs, const Tensor& ys, bool upper, T* out, Stream stream) {
  constexpr int64_t kMostScratch = int64_t{1} << 26;
  const int64_t rows = xs.size(0), columns = ys.size(0), n = xs.size(1), m = ys.size(1), dim = xs.size(2);
  const int64_t fitting = kMostScratch / (n + m);
  const int64_t at_once = fitting < 1 ? 1 : fitting > columns ? columns : fitting;
  const Tensor there = stable::new_empty(xs, {at_once, n}), back = stable::new_empty(xs, {at_once, m});
  const int d = static_cast<int>(dim);
  for (int64_t row = 0; row < rows; ++row) {
    const T* const x = read<T>(xs) + row * n * dim;
    for (int64_t first = upper ? row + 1 : 0; first < columns; first += at_once) {
      const int64_t count = columns - first < at_once ? columns - first : at_once;
      const T* const y = read<T>(ys) + first * m * dim;
      gpu::launch_nearest<T>({x, y, count, n, m, 0, m * dim, d, nullptr, nullptr, write<T>(there), nullptr}, stream);
      gpu::launch_nearest<T>({y, x, count, m, n, m * dim, 0, d, nullptr, nullptr, write<T>(back), nullptr}, stream);
      gpu::launch_means<T>({read<T>(there), read<T>(back), count, n, m, out + row * columns + first}, stream);
    }
  }
}

Tensor chamfer_matrix(const Tensor& xs, const Tensor& ys, bool upper) {
  check_pair(xs, ys);
  const OnDevice device(xs);
  const Tensor cx = stable::contiguous(xs), cy = stable::contiguous(ys);
  Tensor out = stable::new_zeros(xs, {xs.size(0), ys.size(0)});
  const int dim = static_cast<int>(xs.size(2));
  by_dtype(xs, [&](auto zero) {
    using T = decltype(zero);
    if (gpu::fits_chamfer<T>(dim, ys.size(1))) {
      gpu::launch_chamfer<T>(
          {read<T>(cx), read<T>(cy), xs.size(0), ys.size(0), xs.size(1), ys.size(1), dim, upper, write<T>(out)},
          device.stream());
    } else {
      chamfer_of_large<T>(cx, cy, upper, write<T>(out), device.stream());
    }
  });
  device.check("chamfer_matrix");
  return out;
}

Tensor farthest_points(const Tensor& x, int64_t k, const Tensor& start, const std::optional<Tensor>& lengths,
                       bool legacy) {
  check_clouds(x);
  STD_TORCH_CHECK(k >= 1 && (legacy || k <= x.size(1)), "pcdiff: k must be between 1 and ", x.size(1), ", got ", k);
  const OnDevice device(x);
  const Tensor cx = stable::contiguous(x), starts = counts(start, x, "start");
  const auto n = counts(lengths, x, "lengths");
  const Tensor distance = stable::new_empty(x, {x.size(0), x.size(1)});
  Tensor out = stable::new_empty(x, {x.size(0), k}, ScalarType::Long);
  by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    gpu::launch_farthest<T>({read<T>(cx), x.size(0), x.size(1), static_cast<int>(x.size(2)), k, read<int64_t>(starts),
                             read_counts(n), write<T>(distance), write<int64_t>(out)},
                            legacy, device.stream());
  });
  device.check("farthest_points");
  return out;
}

Tensor softmin(const Tensor& x, const Tensor& y, const Tensor& potential, double scale) {
  check_pair(x, y);
  check_batch(x, y);
  STD_TORCH_CHECK(potential.dim() == 2 && potential.size(0) == y.size(0) && potential.size(1) == y.size(1),
                  "pcdiff: potential must hold one value for each point of y");
  STD_TORCH_CHECK(potential.is_cuda() && potential.get_device_index() == x.get_device_index() &&
                      potential.scalar_type() == x.scalar_type(),
                  "pcdiff: potential must have the dtype and the device of x");
  STD_TORCH_CHECK(scale > 0 && std::isfinite(scale), "pcdiff: scale must be positive, got ", scale);
  const OnDevice device(x);
  const Tensor cx = stable::contiguous(x), cy = stable::contiguous(y), cp = stable::contiguous(potential);
  Tensor out = stable::new_empty(x, {x.size(0), x.size(1)});
  by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    STD_TORCH_CHECK(std::isfinite(T{1} / static_cast<T>(scale)), "pcdiff: scale is too small, got ", scale);
    gpu::launch_softmin<T>({read<T>(cx), read<T>(cy), read<T>(cp), x.size(0), x.size(1), y.size(1),
                            static_cast<int>(x.size(2)), static_cast<T>(scale), write<T>(out)},
                           device.stream());
  });
  device.check("softmin");
  return out;
}

std::tuple<Tensor, Tensor, Tensor> approxmatch(const Tensor& x, const Tensor& y, int64_t first_level, bool zero_level,
                                               bool squared) {
  check_pair(x, y);
  check_batch(x, y);
  STD_TORCH_CHECK(first_level >= -1 && first_level <= 15, "pcdiff: first_level must be between -1 and 15, got ",
                  first_level);
  const OnDevice device(x);
  const Tensor cx = stable::contiguous(x), cy = stable::contiguous(y);
  const int64_t batch = x.size(0), n = x.size(1), m = y.size(1), levels = first_level + 2 + (zero_level ? 1 : 0);
  Tensor left = stable::new_empty(x, {batch, levels, n});
  Tensor right = stable::new_empty(x, {batch, levels, m});
  Tensor cost = stable::new_empty(x, {batch});
  const Tensor rest_x = stable::new_empty(x, {batch, n}), rest_y = stable::new_empty(x, {batch, m});
  const Tensor row_cost = stable::new_empty(x, {batch, n}, ScalarType::Double);
  by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    gpu::launch_match<T>({read<T>(cx), read<T>(cy), batch, n, m, static_cast<int>(x.size(2)),
                          static_cast<int>(first_level), static_cast<int>(levels), squared, write<T>(rest_x),
                          write<T>(rest_y), write<double>(row_cost), write<T>(left), write<T>(right), write<T>(cost)},
                         device.stream());
  });
  device.check("approxmatch");
  return {left, right, cost};
}

struct Assigning {
  int64_t tasks, columns;  // columns 0: pairs
  bool upper;
  double tolerance;
};

// `assignment` may be null. Everything is contiguous.
void run_assign(const Tensor& x, const Tensor& y, const Assigning& what, const std::optional<Tensor>& lengths,
                const Tensor* assignment, const Tensor& cost, const Tensor& lower_bound, Stream stream) {
  const int64_t n = x.size(1);
  const int dim = static_cast<int>(x.size(2));
  const Tensor found = stable::new_empty(x, {what.tasks, 2}, ScalarType::Double);
  const Tensor holds = stable::new_empty(x, {what.tasks, n}, ScalarType::Int);
  by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    const Tensor memory = stable::new_empty(x, {gpu::assign_workspace<T>(what.tasks, n, dim)}, ScalarType::Byte);
    gpu::AssignArgs<T> arguments{};
    arguments.x = read<T>(x);
    arguments.y = read<T>(y);
    arguments.tasks = what.tasks;
    arguments.columns = what.columns;
    arguments.upper = what.upper;
    arguments.n = n;
    arguments.dim = dim;
    arguments.lengths = read_counts(lengths);
    arguments.tolerance = what.tolerance;
    arguments.found = write<double>(found);
    arguments.holds = write<int>(holds);
    arguments.memory = write<unsigned char>(memory);
    arguments.assignment = assignment ? write<int64_t>(*assignment) : nullptr;
    arguments.cost = write<T>(cost);
    arguments.lower_bound = write<T>(lower_bound);
    gpu::launch_assign<T>(arguments, stream);
  });
}

void check_assign(const Tensor& x, const Tensor& y, double tolerance) {
  check_pair(x, y);
  STD_TORCH_CHECK(x.size(1) == y.size(1), "pcdiff: x and y must have the same number of points");
  STD_TORCH_CHECK(tolerance >= 0, "pcdiff: tolerance must not be negative, got ", tolerance);
}

std::tuple<Tensor, Tensor, Tensor> assign(const Tensor& x, const Tensor& y, const std::optional<Tensor>& lengths,
                                          double tolerance) {
  check_assign(x, y, tolerance);
  check_batch(x, y);
  const OnDevice device(x);
  Tensor assignment = stable::new_empty(x, {x.size(0), x.size(1)}, ScalarType::Long);
  Tensor cost = stable::new_empty(x, {x.size(0)}), lower_bound = stable::new_empty(x, {x.size(0)});
  run_assign(stable::contiguous(x), stable::contiguous(y), {x.size(0), 0, false, tolerance},
             counts(lengths, x, "lengths"), &assignment, cost, lower_bound, device.stream());
  device.check("assign");
  return {assignment, cost, lower_bound};
}

std::tuple<Tensor, Tensor> assign_matrix(const Tensor& xs, const Tensor& ys, bool upper, double tolerance) {
  check_assign(xs, ys, tolerance);
  const OnDevice device(xs);
  const int64_t rows = xs.size(0), columns = ys.size(0);
  Tensor cost = stable::new_empty(xs, {rows, columns}), lower_bound = stable::new_empty(xs, {rows, columns});
  run_assign(stable::contiguous(xs), stable::contiguous(ys), {rows * columns, columns, upper, tolerance}, std::nullopt,
             nullptr, cost, lower_bound, device.stream());
  device.check("assign_matrix");
  return {cost, lower_bound};
}

int64_t cuda_interface_version() { return kInterface; }

}  // namespace
}  // namespace pcdiff

STABLE_TORCH_LIBRARY_FRAGMENT(pcdiff, m) { m.def("cuda_interface_version() -> int"); }

STABLE_TORCH_LIBRARY_IMPL(pcdiff, CompositeExplicitAutograd, m) {
  m.impl("cuda_interface_version", TORCH_BOX(&pcdiff::cuda_interface_version));
}

STABLE_TORCH_LIBRARY_IMPL(pcdiff, CUDA, m) {
  m.impl("nearest", TORCH_BOX(&pcdiff::nearest));
  m.impl("nearest_both", TORCH_BOX(&pcdiff::nearest_both));
  m.impl("knn", TORCH_BOX(&pcdiff::knn));
  m.impl("ball_query", TORCH_BOX(&pcdiff::ball_query));
  m.impl("voxels", TORCH_BOX(&pcdiff::voxels));
  m.impl("chamfer_matrix", TORCH_BOX(&pcdiff::chamfer_matrix));
  m.impl("farthest_points", TORCH_BOX(&pcdiff::farthest_points));
  m.impl("softmin", TORCH_BOX(&pcdiff::softmin));
  m.impl("approxmatch", TORCH_BOX(&pcdiff::approxmatch));
  m.impl("assign", TORCH_BOX(&pcdiff::assign));
  m.impl("assign_matrix", TORCH_BOX(&pcdiff::assign_matrix));
}
