// The kernels as plain C++ functions: raw pointers, sizes and a stream, no torch. Each only launches; whether that
// worked, cudaGetLastError tells. Memory is the caller's, on the current device.
#pragma once

#include "nearest.h"

struct CUstream_st;

namespace pcdiff {
namespace gpu {

using Stream = CUstream_st*;

template <class T>
void launch_nearest(const NearestArgs<T>& arguments, Stream stream);

}  // namespace gpu
}  // namespace pcdiff
