// The kernels as plain C++ functions: raw pointers, sizes and a stream, no torch. Each only launches; whether that
// worked, cudaGetLastError tells. Memory is the caller's, on the current device.
#pragma once

#include "assign.h"
#include "balls.h"
#include "chamfer.h"
#include "knn.h"
#include "nearest.h"
#include "sampling.h"
#include "transport.h"
#include "voxels.h"

struct CUstream_st;

namespace pcdiff {
namespace gpu {

using Stream = CUstream_st*;

template <class T>
void launch_nearest(const NearestArgs<T>& arguments, Stream stream);

template <class T>
void launch_knn(const KnnArgs<T>& arguments, Stream stream);

// Whether launch_chamfer takes clouds y of m points; else launch_nearest and launch_means do the work.
template <class T>
bool fits_chamfer(int dim, int64_t m);
template <class T>
void launch_chamfer(const ChamferArgs<T>& arguments, Stream stream);
template <class T>
void launch_means(const MeansArgs<T>& arguments, Stream stream);

template <class T>
void launch_balls(const BallArgs<T>& arguments, Stream stream);

// Two launches; `counts` must hold zeros.
template <class T>
void launch_voxels(const VoxelArgs<T>& arguments, Stream stream);

template <class T>
void launch_farthest(const FarthestArgs<T>& arguments, bool legacy, Stream stream);

template <class T>
void launch_softmin(const SoftminArgs<T>& arguments, Stream stream);
template <class T>
void launch_match(const MatchArgs<T>& arguments, Stream stream);

// Bytes of workspace that launch_assign needs for clouds of this size; 0 where shared memory is enough.
template <class T>
int64_t assign_workspace(int64_t tasks, int64_t n, int dim);
// `first_try` and `memory_stride` are set in here. One pair of clouds is one block's work, however large the clouds.
template <class T>
void launch_assign(AssignArgs<T> arguments, Stream stream);

}  // namespace gpu
}  // namespace pcdiff
