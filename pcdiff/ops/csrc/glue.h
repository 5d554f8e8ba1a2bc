// What every binding needs: LibTorch's stable ABI, threads, and the checks that only a look at the values can make.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <atomic>
#include <cstdint>
#include <exception>

namespace pcdiff {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
namespace stable = torch::stable;

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

}  // namespace pcdiff
