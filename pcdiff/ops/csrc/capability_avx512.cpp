// The kernels for x86-64 with AVX-512; empty elsewhere.
#include "balls.h"
#include "bidding.h"
#include "sampling.h"
#include "search.h"
#include "transport.h"

#ifdef PCDIFF_X86
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl")
#endif

#define PCDIFF_CAPABILITY avx512
#define PCDIFF_VECTOR_BYTES 64
#include "lanes.inc"
#include "balls.inc"
#include "search.inc"
#include "bidding.inc"
#include "sampling.inc"
#include "transport.inc"

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
