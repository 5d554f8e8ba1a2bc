"""The bodies of the CUDA kernels, built for the host and called on NumPy arrays (see `host_kernels.cpp`)."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
BODIES = ROOT / "pcdiff" / "ops" / "csrc" / "cuda"
SOURCE = Path(__file__).with_suffix(".cpp")

I64, I32, PTR = ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p
SCALAR = {"float32": ctypes.c_float, "float64": ctypes.c_double}


def structure(name, *fields):
    """Return a ctypes structure; the fields mirror the one of the same name in the headers."""
    return type(name, (ctypes.Structure,), {"_fields_": list(fields)})


def fields(kind, names):
    return [(name, kind) for name in names.split()]


class Run(ctypes.Structure):
    _fields_ = (("threads", I32), ("backwards", I32))


Nearest = structure(
    "NearestArgs",
    *fields(PTR, "x y"),
    *fields(I64, "batch n m x_stride y_stride"),
    ("dim", I32),
    *fields(PTR, "x_lengths y_lengths squared_distance index"),
)
Knn = structure(
    "KnnArgs",
    *fields(PTR, "x y"),
    *fields(I64, "batch n m"),
    ("dim", I32),
    ("k", I64),
    *fields(PTR, "x_lengths y_lengths squared_distance index"),
)
Balls = {
    dtype: structure(
        "BallArgs",
        *fields(PTR, "x y"),
        *fields(I64, "batch n m"),
        ("dim", I32),
        ("square", scalar),
        ("k", I64),
        *fields(PTR, "x_lengths y_lengths out"),
    )
    for dtype, scalar in SCALAR.items()
}
Voxels = structure(
    "VoxelArgs", ("coords", PTR), *fields(I64, "batch n resolution"), *fields(PTR, "lengths counts index count")
)
Chamfer = structure(
    "ChamferArgs",
    *fields(PTR, "xs ys"),
    *fields(I64, "rows columns n m"),
    ("dim", I32),
    ("upper", ctypes.c_bool),
    ("out", PTR),
)
Means = structure("MeansArgs", *fields(PTR, "there back"), *fields(I64, "pairs n m"), ("out", PTR))
Farthest = structure(
    "FarthestArgs",
    ("x", PTR),
    *fields(I64, "batch n"),
    ("dim", I32),
    ("k", I64),
    *fields(PTR, "start lengths distance out"),
)
Softmin = {
    dtype: structure(
        "SoftminArgs",
        *fields(PTR, "x y potential"),
        *fields(I64, "batch n m"),
        ("dim", I32),
        ("scale", scalar),
        ("out", PTR),
    )
    for dtype, scalar in SCALAR.items()
}
Match = structure(
    "MatchArgs",
    *fields(PTR, "x y"),
    *fields(I64, "batch n m"),
    *fields(I32, "dim first_level levels"),
    ("squared", ctypes.c_bool),
    *fields(PTR, "rest_x rest_y row_cost left right cost"),
)
Assign = structure(
    "AssignArgs",
    *fields(PTR, "x y"),
    *fields(I64, "tasks columns"),
    ("upper", ctypes.c_bool),
    ("n", I64),
    ("dim", I32),
    ("lengths", PTR),
    ("tolerance", ctypes.c_double),
    ("first_try", ctypes.c_bool),
    *fields(PTR, "found holds memory"),
    ("memory_stride", I64),
    *fields(PTR, "assignment cost lower_bound"),
)


def build():
    """Return the library of the compiled bodies; None where there is no C++ compiler.

    It is kept under `build/`, by what it was made from and with: the compiler takes 20 seconds.
    `PCDIFF_HOST_FLAGS` adds flags, for sanitizers.
    """
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None
    options = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", f"-I{BODIES}"]
    options += os.environ.get("PCDIFF_HOST_FLAGS", "").split()
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True).stdout
    made_from = hashlib.sha256(repr([compiler, version, platform.machine(), *options]).encode())
    for file in (SOURCE, *sorted(path for path in BODIES.rglob("*") if path.is_file())):
        made_from.update(repr((str(file), file.read_bytes())).encode())
    library = ROOT / "build" / "host_kernels" / f"{made_from.hexdigest()[:32]}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        draft = library.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, *options, str(SOURCE), "-o", str(draft)], check=True)
        draft.replace(library)
    return ctypes.CDLL(str(library))


class Kernels:
    """Every kernel as a function from arrays to arrays, run by blocks of `threads`, forwards or backwards."""

    def __init__(self, library, threads=128, backwards=False):
        self.library, self.how = library, Run(threads, backwards)

    def _call(self, name, arguments, *before, after=()):
        kind = "float32" if self.dtype == np.float32 else "float64"
        function = getattr(self.library, f"{name}_{kind}")
        assert function(self.how, *before, ctypes.byref(arguments), *after) == 1

    def _clouds(self, *clouds):
        self.dtype = clouds[0].dtype
        return [np.ascontiguousarray(cloud) for cloud in clouds]

    def nearest(self, x, y, x_lengths=None, y_lengths=None, queries=4):
        x, y = self._clouds(x, y)
        (batch, n, dim), m = x.shape, y.shape[1]
        distance, index = np.full((batch, n), np.nan, x.dtype), np.full((batch, n), -7)
        self._call(
            "nearest",
            Nearest(
                *(at(x), at(y), batch, n, m, n * dim, m * dim, dim),
                *(at(x_lengths), at(y_lengths), at(distance), at(index)),
            ),
            queries,
        )
        return distance, index

    def knn(self, x, y, k, x_lengths=None, y_lengths=None, slots=True):
        x, y = self._clouds(x, y)
        (batch, n, dim), m = x.shape, y.shape[1]
        distance, index = np.full((batch, n, k), np.nan, x.dtype), np.full((batch, n, k), -7)
        lengths = at(x_lengths), at(y_lengths)
        self._call("knn", Knn(at(x), at(y), batch, n, m, dim, k, *lengths, at(distance), at(index)), int(slots))
        return distance, index

    def balls(self, x, y, radius, k, x_lengths=None, y_lengths=None):
        x, y = self._clouds(x, y)
        (batch, n, dim), m = x.shape, y.shape[1]
        out = np.full((batch, n, k), -7)
        square = x.dtype.type(radius) * x.dtype.type(radius)
        arguments = at(x), at(y), batch, n, m, dim, square, k, at(x_lengths), at(y_lengths), at(out)
        self._call("balls", Balls[x.dtype.name](*arguments))
        return out

    def voxels(self, coords, resolution, lengths=None):
        (coords,) = self._clouds(coords)
        batch, n, _ = coords.shape
        counts = np.zeros((batch, resolution**3), np.int32)
        index, count = np.full((batch, n), -7), np.full((batch, n), -7)
        arguments = at(coords), batch, n, resolution, at(lengths), at(counts), at(index), at(count)
        self._call("voxels", Voxels(*arguments))
        return index, count

    def chamfer(self, xs, ys, upper=False, queries=8):
        xs, ys = self._clouds(xs, ys)
        out = np.full((len(xs), len(ys)), np.nan, xs.dtype)
        sizes = len(xs), len(ys), xs.shape[1], ys.shape[1], xs.shape[2]
        self._call("chamfer", Chamfer(at(xs), at(ys), *sizes, upper, at(out)), queries)
        return out

    def means(self, there, back):
        there, back = self._clouds(there, back)
        out = np.full(len(there), np.nan, there.dtype)
        self._call("means", Means(at(there), at(back), len(there), there.shape[1], back.shape[1], at(out)))
        return out

    def farthest(self, x, k, start, lengths=None, legacy=False):
        (x,) = self._clouds(x)
        batch, n, dim = x.shape
        distance, out = np.full((batch, n), np.nan, x.dtype), np.full((batch, k), -7)
        arguments = at(x), batch, n, dim, k, at(start), at(lengths), at(distance), at(out)
        self._call("farthest", Farthest(*arguments), int(legacy))
        return out

    def softmin(self, x, y, potential, scale):
        x, y, potential = self._clouds(x, y, potential)
        (batch, n, dim), m = x.shape, y.shape[1]
        out = np.full((batch, n), np.nan, x.dtype)
        kind = Softmin["float32" if x.dtype == np.float32 else "float64"]
        self._call("softmin", kind(at(x), at(y), at(potential), batch, n, m, dim, scale, at(out)))
        return out

    def match(self, x, y, first_level, zero_level, squared):
        x, y = self._clouds(x, y)
        (batch, n, dim), m = x.shape, y.shape[1]
        levels = first_level + 2 + zero_level
        rest_x, rest_y, row_cost = (
            np.empty((batch, n), x.dtype),
            np.empty((batch, m), x.dtype),
            np.empty((batch, n)),
        )
        left, right = np.full((batch, levels, n), np.nan, x.dtype), np.full((batch, levels, m), np.nan, x.dtype)
        cost = np.full(batch, np.nan, x.dtype)
        scratch = at(rest_x), at(rest_y), at(row_cost)
        sizes = batch, n, m, dim, first_level, levels, squared
        self._call("match", Match(at(x), at(y), *sizes, *scratch, at(left), at(right), at(cost)))
        return left, right, cost

    def assign(self, x, y, tolerance, lengths=None, matrix=False, upper=False):
        """Return assignment, cost, lower bound and the number of bids."""
        x, y = self._clouds(x, y)
        _, n, dim = x.shape
        tasks = len(x) * len(y) if matrix else len(x)
        found, holds = np.full((tasks, 2), np.nan), np.full((tasks, n), -7, np.int32)
        assignment, bids = np.full((tasks, n), -7), np.zeros(tasks, np.int64)
        cost, bound = np.full(tasks, np.nan, x.dtype), np.full(tasks, np.nan, x.dtype)
        columns = len(y) if matrix else 0
        arguments = Assign(
            *(at(x), at(y), tasks, columns, upper, n, dim, at(lengths), tolerance, True),
            *(at(found), at(holds), None, 0, at(assignment), at(cost), at(bound)),
        )
        self._call("assign", arguments, after=(at(bids),))
        return assignment, cost, bound, bids


def at(array):
    return None if array is None else ctypes.c_void_p(array.ctypes.data)
