// The kernels for any machine: 128-bit vectors, which every x86-64 and AArch64 processor has.
#include "balls.h"
#include "bidding.h"
#include "sampling.h"
#include "search.h"
#include "transport.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define PCDIFF_CAPABILITY baseline
#define PCDIFF_VECTOR_BYTES 16
#include "lanes.inc"
#include "balls.inc"
#include "search.inc"
#include "bidding.inc"
#include "sampling.inc"
#include "transport.inc"
