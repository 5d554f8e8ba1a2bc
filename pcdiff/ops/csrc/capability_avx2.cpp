// The kernels for x86-64 with AVX2; empty elsewhere.
#include "balls.h"
#include "bidding.h"
#include "sampling.h"
#include "search.h"
#include "transport.h"

#ifdef PCDIFF_X86
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

#define PCDIFF_CAPABILITY avx2
#define PCDIFF_VECTOR_BYTES 32
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
