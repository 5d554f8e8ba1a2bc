"""Ops on point clouds: neighbors, samples and voxels; Chamfer and earth mover's distances, and matrices of them.

Everything takes clouds `(B, N, D)`. On the CPU native kernels do the searching where they are built; elsewhere a
PyTorch reference does, which announces itself. `backend()` returns which.
"""

import pcdiff.runtime.square_roots  # noqa: F401 - for what it does
from pcdiff.ops._assignment import estimated_emd_seconds
from pcdiff.ops._native import backend, cpu_capabilities
from pcdiff.ops._points import gather_points
from pcdiff.ops.bounds import PairBounds, emd_pairs, sliced_bound, slices
from pcdiff.ops.chamfer import Directions, Nearest, chamfer, nearest
from pcdiff.ops.emd import EMD, emd
from pcdiff.ops.interpolation import three_nn_interpolate
from pcdiff.ops.knn import KNN, knn
from pcdiff.ops.neighborhood import ball_query
from pcdiff.ops.pairwise import pairwise
from pcdiff.ops.sampling import farthest_point_sample
from pcdiff.ops.voxels import devoxelize, voxel_coordinates, voxelize

__all__ = [
    "EMD",
    "KNN",
    "Directions",
    "Nearest",
    "PairBounds",
    "backend",
    "ball_query",
    "chamfer",
    "cpu_capabilities",
    "devoxelize",
    "emd",
    "emd_pairs",
    "estimated_emd_seconds",
    "farthest_point_sample",
    "gather_points",
    "knn",
    "nearest",
    "pairwise",
    "sliced_bound",
    "slices",
    "three_nn_interpolate",
    "voxel_coordinates",
    "voxelize",
]
