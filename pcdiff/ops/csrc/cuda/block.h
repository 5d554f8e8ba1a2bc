// A block of threads, on the device or in a loop on the host.
//
// Kernel bodies are templates over a block and are written in phases: `block.each(f)` runs f(thread) for every thread
// and then waits for all of them. On the device that is one call and a barrier; on the host it is a loop, so a C++
// compiler, its sanitizers and any debugger can run the very body that the GPU runs. Values that a thread keeps from
// one phase to the next live in a PerThread: registers on the device, an array on the host.
//
// Within one phase no thread may read what another writes, except through the atomics below; the host can run the
// threads backwards as well, and a body whose result then changes has broken this rule.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define PCDIFF_DEVICE __device__ __forceinline__
#define PCDIFF_BOTH __host__ __device__ inline
#define PCDIFF_UNROLL _Pragma("unroll")
#define PCDIFF_UNROLL_BY_4 _Pragma("unroll 4")
#define PCDIFF_NO_UNROLL _Pragma("unroll 1")
#else
#include <cmath>
#include <cstring>
#define PCDIFF_DEVICE inline
#define PCDIFF_BOTH inline
#define PCDIFF_UNROLL
#define PCDIFF_UNROLL_BY_4
#define PCDIFF_NO_UNROLL
#endif

namespace pcdiff {
namespace gpu {

constexpr int kWarp = 32;

#ifdef __CUDACC__

template <int kThreads>
struct Block {
  static constexpr int kSize = kThreads;

  template <class V>
  struct PerThread {
    V value;
    PCDIFF_DEVICE V& operator[](int) { return value; }
  };

  template <class Body>
  PCDIFF_DEVICE void each(const Body& body) const {
    body(static_cast<int>(threadIdx.x));
    __syncthreads();
  }

  // As `each`, but waits only for the threads of the same warp.
  template <class Body>
  PCDIFF_DEVICE void each_in_warp(const Body& body) const {
    body(static_cast<int>(threadIdx.x));
    __syncwarp();
  }

  // The value of a shared variable, the same for all threads: read by all before any may write it again.
  template <class V>
  PCDIFF_DEVICE V agree(const V& shared) const {
    const V value = shared;
    __syncthreads();
    return value;
  }
};

PCDIFF_DEVICE void atomic_min(unsigned* at, unsigned value) { atomicMin(at, value); }
PCDIFF_DEVICE void atomic_min(unsigned long long* at, unsigned long long value) { atomicMin(at, value); }
PCDIFF_DEVICE void atomic_max(unsigned* at, unsigned value) { atomicMax(at, value); }
PCDIFF_DEVICE void atomic_max(unsigned long long* at, unsigned long long value) { atomicMax(at, value); }
PCDIFF_DEVICE int atomic_add(int* at, int value) { return atomicAdd(at, value); }

PCDIFF_DEVICE unsigned to_bits(float value) { return __float_as_uint(value); }
PCDIFF_DEVICE unsigned long long to_bits(double value) {
  return static_cast<unsigned long long>(__double_as_longlong(value));
}
PCDIFF_DEVICE float from_bits(unsigned bits) { return __uint_as_float(bits); }
PCDIFF_DEVICE double from_bits(unsigned long long bits) { return __longlong_as_double(static_cast<long long>(bits)); }

// Arithmetic that is never contracted to a fused multiply-add, whatever the compiler's flags.
PCDIFF_DEVICE float minus(float a, float b) { return __fsub_rn(a, b); }
PCDIFF_DEVICE double minus(double a, double b) { return __dsub_rn(a, b); }
PCDIFF_DEVICE float plus(float a, float b) { return __fadd_rn(a, b); }
PCDIFF_DEVICE double plus(double a, double b) { return __dadd_rn(a, b); }
PCDIFF_DEVICE float times(float a, float b) { return __fmul_rn(a, b); }
PCDIFF_DEVICE double times(double a, double b) { return __dmul_rn(a, b); }

// a * b + c, rounded once, where the CPU's bits are not asked for.
PCDIFF_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
PCDIFF_DEVICE double fused(double a, double b, double c) { return __fma_rn(a, b, c); }

PCDIFF_DEVICE float square_root(float a) { return __fsqrt_rn(a); }
PCDIFF_DEVICE double square_root(double a) { return __dsqrt_rn(a); }
// To two units in the last place, in a fraction of the time, where nothing depends on the last bits.
PCDIFF_DEVICE float quick_root(float a) {
  float root;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(a));
  return root;
}
PCDIFF_DEVICE double quick_root(double a) { return __dsqrt_rn(a); }
// To the nearest integer, half to even.
PCDIFF_DEVICE float rounded(float a) { return rintf(a); }
PCDIFF_DEVICE double rounded(double a) { return rint(a); }
PCDIFF_DEVICE float smaller(float a, float b) { return fminf(a, b); }
PCDIFF_DEVICE double smaller(double a, double b) { return fmin(a, b); }
// The least of three numbers that are not negative. From sm_90 on that is one instruction for their bits, which are in
// the same order; NaN's are above infinity's.
PCDIFF_DEVICE float smallest(float a, float b, float c) {
#if __CUDA_ARCH__ >= 900
  return __uint_as_float(__vimin3_u32(__float_as_uint(a), __float_as_uint(b), __float_as_uint(c)));
#else
  return fminf(fminf(a, b), c);
#endif
}
PCDIFF_DEVICE double smallest(double a, double b, double c) { return fmin(fmin(a, b), c); }
PCDIFF_DEVICE float exponential(float a) { return expf(a); }
PCDIFF_DEVICE double exponential(double a) { return exp(a); }
PCDIFF_DEVICE float logarithm(float a) { return logf(a); }
PCDIFF_DEVICE double logarithm(double a) { return log(a); }

#else  // the host

template <int kThreads>
struct Block {
  static constexpr int kSize = kThreads;
  bool backwards = false;

  template <class V>
  struct PerThread {
    V value[kThreads];
    V& operator[](int thread) { return value[thread]; }
  };

  template <class Body>
  void each(const Body& body) const {
    for (int t = 0; t < kThreads; ++t) body(backwards ? kThreads - 1 - t : t);
  }

  template <class Body>
  void each_in_warp(const Body& body) const {
    each(body);
  }

  template <class V>
  V agree(const V& shared) const {
    return shared;
  }
};

template <class V>
void atomic_min(V* at, V value) {
  if (value < *at) *at = value;
}
template <class V>
void atomic_max(V* at, V value) {
  if (*at < value) *at = value;
}
inline int atomic_add(int* at, int value) {
  const int before = *at;
  *at += value;
  return before;
}

template <class To, class From>
To reinterpret(From from) {
  static_assert(sizeof(To) == sizeof(From), "bits are kept, not converted");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}
inline unsigned to_bits(float value) { return reinterpret<unsigned>(value); }
inline unsigned long long to_bits(double value) { return reinterpret<unsigned long long>(value); }
inline float from_bits(unsigned bits) { return reinterpret<float>(bits); }
inline double from_bits(unsigned long long bits) { return reinterpret<double>(bits); }

// The host library is compiled with -ffp-contract=off.
template <class T>
T minus(T a, T b) {
  return a - b;
}
template <class T>
T plus(T a, T b) {
  return a + b;
}
template <class T>
T times(T a, T b) {
  return a * b;
}
template <class T>
T fused(T a, T b, T c) {
  return std::fma(a, b, c);
}
template <class T>
T square_root(T a) {
  return std::sqrt(a);
}
template <class T>
T quick_root(T a) {
  return std::sqrt(a);
}
template <class T>
T rounded(T a) {
  return std::nearbyint(a);
}
template <class T>
T smaller(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T smallest(T a, T b, T c) {
  return smaller(smaller(a, b), c);
}
template <class T>
T exponential(T a) {
  return std::exp(a);
}
template <class T>
T logarithm(T a) {
  return std::log(a);
}

#endif

// Non-negative floats are ordered like their bits read as unsigned integers, for which there are atomics.
template <class T>
struct BitsOf;
template <>
struct BitsOf<float> {
  using type = unsigned;
};
template <>
struct BitsOf<double> {
  using type = unsigned long long;
};
template <class T>
using Bits = typename BitsOf<T>::type;

template <class T>
PCDIFF_DEVICE T infinity() {
  return static_cast<T>(__builtin_huge_val());
}

// Combines the values of each group of `width` neighboring threads (a power of two) into the group's first, by
// `values[a] = combine(values[a], values[b])`, pairing the same threads every time: the result does not depend on
// timing. All threads of the block take part; the caller's writes must have been followed by a barrier.
template <class B, class V, class Combine>
PCDIFF_DEVICE void combine_groups(const B& block, V* values, int width, const Combine& combine) {
  for (int step = width / 2; step > 0; step /= 2) {
    const auto half = [&](int t) {
      if ((t & (width - 1)) < step) values[t] = combine(values[t], values[t + step]);
    };
    // Threads less than a warp's width apart, in groups of a power of two, are of one warp.
    if (step >= kWarp) {
      block.each(half);
    } else {
      block.each_in_warp(half);
    }
  }
  // After warp-wide steps the other warps have not been waited for.
  block.each([](int) {});
}

}  // namespace gpu
}  // namespace pcdiff
