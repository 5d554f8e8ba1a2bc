"""What the ops say to a user's mistake: one line with the argument, what was expected and what came."""

import re

import pytest
import torch
from refusals import refused

from pcdiff import ops
from pcdiff.errors import InputError, UnknownName

X = torch.zeros(2, 4, 3)
BAD = torch.zeros(2, 4, 3)
BAD[1, 2, 0] = float("nan")
BAD[0, 0, 1] = float("inf")

PAIR_OPS = [ops.nearest, ops.chamfer, ops.emd, lambda x, y: ops.knn(x, y, 1)]
PAIR_CASES = [
    ([1.0], X, "x must be a torch.Tensor (B, N, D), got list"),
    (torch.zeros(2048, 3), X, "x must be (B, N, D), got (2048, 3); add the batch dimension with x[None]"),
    (X, torch.zeros(1, 2, 4, 3), "got (1, 2, 4, 3)"),
    (X, torch.zeros(2, 0, 3), "at least one point and one coordinate, got (2, 0, 3)"),
    (torch.zeros(2, 4, 0), X, "x must be (B, N, D) with at least one point"),
    (X, torch.zeros(2, 4, 2), "y must have points of 3 coordinates like x, got (2, 4, 2)"),
    (X, torch.zeros(3, 4, 3), "y must have the batch size 2 of x, got (3, 4, 3)"),
    (X, X.double(), "y must have the dtype torch.float32 of x, got torch.float64"),
    (X.int(), X, "x must be floating point, got torch.int32"),
    (X, torch.zeros(2, 4, 3, device="meta"), "y must be on cpu like x, got meta"),
    (BAD, X, "x must be finite, got 2 NaN or infinite coordinates of 24"),
    (X, BAD, "y must be finite, got 2 NaN or infinite coordinates of 24"),
]


@pytest.mark.parametrize("op", PAIR_OPS)
@pytest.mark.parametrize(("x", "y", "message"), PAIR_CASES)
def test_pairs_of_clouds(op, x, y, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        op(x, y)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("distance", ["chamfer", "emd"])
@pytest.mark.parametrize(
    ("xs", "ys", "message"),
    [
        (torch.zeros(4, 3), None, "xs must be (S, N, D), got (4, 3)"),
        (X, torch.zeros(2, 4, 2), "ys must have points of 3 coordinates like xs, got (2, 4, 2)"),
        (X, X.double(), "ys must have the dtype torch.float32 of xs, got torch.float64"),
        (X, BAD, "ys must be finite, got 2 NaN"),
        (BAD, None, "xs must be finite, got 2 NaN"),
    ],
)
def test_sets_of_clouds(distance, xs, ys, message):
    with pytest.raises(InputError, match=re.escape(message)):
        ops.pairwise(xs, ys, distance=distance)


@pytest.mark.parametrize("dim", [3, 5])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_finite_is_found_on_the_native_path_and_on_the_reference(dim, value, monkeypatch):
    x = torch.zeros(2, 40, dim)
    bad = x.clone()
    bad[1, 39, dim - 1] = value
    for missing in (None, "hidden by the test") if ops.backend() == "cpu" else ("as it is",):
        monkeypatch.setattr("pcdiff.ops._native._missing", missing)
        monkeypatch.setattr("pcdiff.ops._native._warned", {"cpu"})
        with pytest.raises(InputError, match="x must be finite, got 1 NaN"):
            ops.nearest(bad, x)
        with pytest.raises(InputError, match="ys must be finite, got 1 NaN"):
            ops.pairwise(x, bad)


@pytest.mark.parametrize("op", PAIR_OPS[:2] + PAIR_OPS[3:])
def test_not_finite_is_found_within_vmap(op, path):
    with pytest.raises(InputError, match="x must be finite, got 2 NaN"):
        torch.vmap(lambda x: op(x, X))(torch.stack([X, BAD]))


NATIVE_CASES = [
    (torch.zeros(4, 3), X, "{x} must have three dimensions, got 2"),
    (torch.zeros(2, 0, 3), X, "{x} must have at least one point and one coordinate, got 0 and 3"),
    (torch.zeros(1, 1, 1).expand(2, 2**31, 3), X, "{x} must have fewer than 2147483584 points"),
    (X.half(), X.half(), "{x} must be float32 or float64"),
    (X, torch.zeros(2, 4, 2), "{y} must have points of 3 coordinates like {x}, got 2"),
    (X, X.double(), "{y} must have the dtype of {x}"),
]


@pytest.mark.skipif(ops.backend() != "cpu", reason="the native ops are not built")
@pytest.mark.parametrize(("x", "y", "message"), NATIVE_CASES)
def test_native_ops_check_shapes_themselves(x, y, message):
    native = torch.ops.pcdiff
    for call in (
        lambda: native.nearest(x, y, None, None),
        lambda: native.nearest_both(x, y, None, None),
        lambda: native.knn(x, y, 1, None, None),
    ):
        with pytest.raises(RuntimeError, match=re.escape("pcdiff: " + message.format(x="x", y="y"))):
            call()
    with pytest.raises(RuntimeError, match=re.escape("pcdiff: " + message.format(x="xs", y="ys"))):
        native.chamfer_matrix(x, y, False)


@pytest.mark.skipif(ops.backend() != "cpu", reason="the native ops are not built")
def test_native_ops_check_the_batch_themselves():
    with pytest.raises(RuntimeError, match="pcdiff: y must have the batch size 2 of x, got 3"):
        torch.ops.pcdiff.nearest(X, torch.zeros(3, 4, 3), None, None)


def test_choices_list_what_is_known():
    with refused(UnknownName, what="reduction", name="max"):
        ops.chamfer(X, X, reduction="max")
    with refused(UnknownName, what="method", name="hungarian"):
        ops.emd(X, X, method="hungarian")
    with refused(UnknownName, what="distance", name="l2"):
        ops.pairwise(X, distance="l2")

    with refused(UnknownName, what="directions", name="y_to_x"):
        ops.chamfer(X, X, directions="y_to_x")
    with pytest.raises(InputError, match="squared must be True or False, got 'no'"):
        ops.chamfer(X, X, squared="no")


RAGGED_OPS = [ops.nearest, ops.chamfer, lambda x, y, *lengths: ops.knn(x, y, 2, *lengths)]
LENGTHS_CASES = [
    ([4, 4], "must be None or an int64 tensor (2,) like the batch of {}, got list"),
    (torch.tensor([4, 4, 4]), "must be None or an int64 tensor (2,) like the batch of {}, got (3,)"),
    (torch.tensor([[4, 4]]), "must be None or an int64 tensor (2,) like the batch of {}, got (1, 2)"),
    (torch.tensor([4.0, 4.0]), "must be None or an int64 tensor (2,) like the batch of {}, got torch.float32"),
    (torch.tensor([4, 4]).int(), "got torch.int32"),
    (torch.zeros(2, dtype=torch.int64, device="meta"), "must be on cpu like {}, got meta"),
    (torch.tensor([4, 0]), "must be in 1..4, the rows of {}, got 0"),
    (torch.tensor([-1, 4]), "must be in 1..4, the rows of {}, got -1"),
    (torch.tensor([4, 5]), "must be in 1..4, the rows of {}, got 5"),
]


@pytest.mark.parametrize("op", RAGGED_OPS)
@pytest.mark.parametrize(("lengths", "message"), LENGTHS_CASES)
def test_lengths(op, lengths, message):
    with pytest.raises(InputError, match="^x_lengths .*" + re.escape(message.format("x"))) as caught:
        op(X, X, lengths, None)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="^y_lengths .*" + re.escape(message.format("y"))):
        op(X, X, None, lengths)


@pytest.mark.parametrize(
    ("k", "message"),
    [
        (0, "k must be in 1..4, the points of y, got 0"),
        (5, "got 5"),
        (-1, "got -1"),
        (2.0, "k must be an integer, got 2.0"),
        (True, "k must be an integer, got True"),
    ],
)
def test_number_of_neighbors(k, message):
    with pytest.raises(InputError, match=re.escape(message)):
        ops.knn(X, X, k)


def test_emd_needs_clouds_of_one_size():
    with pytest.raises(InputError, match=re.escape("y must have 4 points a cloud like x (EMD is a bijection)")):
        ops.emd(X, torch.zeros(2, 5, 3))
    with pytest.raises(InputError, match=re.escape("got (7, 5, 3)")):
        ops.pairwise(X, torch.zeros(7, 5, 3), distance="emd")


@pytest.mark.parametrize("tolerance", [0, -1e-3, 1, float("nan"), True, "1e-3", None])
def test_tolerance_is_a_share(tolerance):
    message = re.escape(f"tolerance must be a number above 0 and below 1, got {tolerance!r}")
    with pytest.raises(InputError, match=message):
        ops.emd(X, X, tolerance=tolerance)
    with pytest.raises(InputError, match=message):
        ops.pairwise(X, distance="emd", tolerance=tolerance)


@pytest.mark.skipif(ops.backend() != "cpu", reason="the native ops are not built")
def test_unknown_capability_lists_those_of_this_machine(monkeypatch):
    monkeypatch.setenv("PCDIFF_CPU_CAPABILITY", "sse9")
    known = ", ".join(ops.cpu_capabilities())
    message = f"PCDIFF_CPU_CAPABILITY must be one of {known} on this machine, got sse9"
    with pytest.raises(InputError, match=message):
        ops.chamfer(X, X)
