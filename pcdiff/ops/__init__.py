"""Distances between point clouds: nearest neighbours, Chamfer, earth mover's distance, and whole matrices of them.

Everything takes clouds `(B, N, D)`. On the CPU native kernels do the searching where they are built; elsewhere a
PyTorch reference does, which announces itself. `backend()` tells which.
"""

import torch

from pcdiff.ops._assignment import estimated_emd_seconds
from pcdiff.ops._native import backend, cpu_capabilities
from pcdiff.ops.bounds import PairBounds, emd_pairs, sliced_bound, slices
from pcdiff.ops.chamfer import Directions, Nearest, chamfer, nearest
from pcdiff.ops.emd import EMD, emd
from pcdiff.ops.knn import KNN, knn
from pcdiff.ops.pairwise import pairwise
from pcdiff.ops.sampling import farthest_point_sample

# Torch's square roots come from a library that sets itself up at the first call. When two threads make that call
# together, one of them may compute with errors of up to 3e-4 (1 in 14 processes, torch 2.13): one makes it here.
torch.ones(1).sqrt()
torch.ones(1, dtype=torch.float64).sqrt()

__all__ = [
    "EMD",
    "KNN",
    "Directions",
    "Nearest",
    "PairBounds",
    "backend",
    "chamfer",
    "cpu_capabilities",
    "emd",
    "emd_pairs",
    "estimated_emd_seconds",
    "farthest_point_sample",
    "knn",
    "nearest",
    "pairwise",
    "sliced_bound",
    "slices",
]
