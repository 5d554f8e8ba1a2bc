// What every binding needs: LibTorch's stable ABI, threads, and the checks that only a look at the values can make.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <optional>

namespace pcdiff {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
namespace stable = torch::stable;
using OptionalTensor = std::optional<Tensor>;

// To be raised with every change of a schema: the Python side refuses a library of another number.
constexpr int64_t kInterface = 3;

// A cloud has fewer points than this: the float kernels keep indices in 32 bits, and the last block may be filled up.
constexpr int64_t kMostPoints = (int64_t{1} << 31) - 64;

// Runs `body(first, last)` on ranges of [0, count). An exception must not cross torch's C interface, so the first one
// is carried over to the calling thread.
template <class Body>
void parallel(int64_t count, int64_t grain, const Body& body) {
  if (count == 0) return;
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  stable::parallel_for(0, count, grain, [&](int64_t first, int64_t last) {
    try {
      body(first, last);
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  });
  if (failed) std::rethrow_exception(error);
}

template <class T>
void check_finite(const T* values, int64_t count, const char* name) {
  std::atomic<bool> finite{true};
  parallel(count, int64_t{1} << 16, [&](int64_t first, int64_t last) {
    T rest = 0;
    for (int64_t i = first; i < last; ++i) rest += values[i] - values[i];
    if (!(rest == 0)) finite = false;
  });
  STD_TORCH_CHECK(finite, "pcdiff: ", name, " holds NaN or infinite coordinates");
}

template <class T>
const T* read(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
T* write(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Calls `body(T{})` with the element type of a float32 or float64 tensor.
template <class Body>
void by_dtype(const Tensor& tensor, const Body& body) {
  if (tensor.scalar_type() == ScalarType::Float) {
    body(float{});
  } else {
    body(double{});
  }
}

// The sizes of two batches of clouds, (batch, n, dim) and, where they are compared pair by pair, (batch, m, dim).
struct Shape {
  int64_t batch, n, m, dim;
};

inline void check_clouds(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.dim() == 3, "pcdiff: ", name, " must have three dimensions, got ", x.dim());
  STD_TORCH_CHECK(x.size(1) > 0 && x.size(2) > 0, "pcdiff: ", name,
                  " must have at least one point and one coordinate, got ", x.size(1), " and ", x.size(2));
  STD_TORCH_CHECK(x.size(1) < kMostPoints, "pcdiff: ", name, " must have fewer than ", kMostPoints,
                  " points a cloud, got ", x.size(1));
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double, "pcdiff: ", name,
                  " must be float32 or float64");
}

// Two sets of clouds, any of one with any of the other: the batch sizes may differ, and `batch` is that of the first.
inline Shape checked_sets(const Tensor& x, const Tensor& y, const char* x_name = "xs", const char* y_name = "ys") {
  check_clouds(x, x_name);
  check_clouds(y, y_name);
  STD_TORCH_CHECK(x.size(2) == y.size(2), "pcdiff: ", y_name, " must have points of ", x.size(2), " coordinates like ",
                  x_name, ", got ", y.size(2));
  STD_TORCH_CHECK(x.scalar_type() == y.scalar_type(), "pcdiff: ", y_name, " must have the dtype of ", x_name);
  return {x.size(0), x.size(1), y.size(1), x.size(2)};
}

// Two batches of clouds that are compared pair by pair.
inline Shape checked_pairs(const Tensor& x, const Tensor& y, const char* x_name = "x", const char* y_name = "y") {
  const Shape s = checked_sets(x, y, x_name, y_name);
  STD_TORCH_CHECK(y.size(0) == s.batch, "pcdiff: ", y_name, " must have the batch size ", s.batch, " of ", x_name,
                  ", got ", y.size(0));
  return s;
}

// An integer for each cloud, contiguous.
inline Tensor checked_counts(const Tensor& counts, int64_t batch, const char* name) {
  STD_TORCH_CHECK(counts.scalar_type() == ScalarType::Long && counts.dim() == 1 && counts.size(0) == batch,
                  "pcdiff: ", name, " must be an int64 tensor (", batch, ",)");
  return stable::contiguous(counts);
}

// How many points of each cloud are real: all `most`, or what a tensor of lengths in 1..most says. Hidden from other
// libraries because torch's Tensor is.
class __attribute__((visibility("hidden"))) Lengths {
 public:
  Lengths(const OptionalTensor& lengths, int64_t batch, int64_t most, const char* name) : most_(most) {
    if (!lengths) return;
    held_ = checked_counts(*lengths, batch, name);
    values_ = read<int64_t>(*held_);
    for (int64_t b = 0; b < batch; ++b) {
      STD_TORCH_CHECK(values_[b] >= 1 && values_[b] <= most, "pcdiff: ", name, " must be in 1..", most, ", got ",
                      values_[b]);
    }
  }
  int64_t operator[](int64_t b) const { return values_ ? values_[b] : most_; }

 private:
  int64_t most_;
  OptionalTensor held_;
  const int64_t* values_ = nullptr;
};

}  // namespace pcdiff
