"""PointNet++ as point-e's scores use it: a classifier of ModelNet40's shapes, whose features P-FID compares."""

import hashlib
import itertools
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.errors import InputError
from pcdiff.ops import farthest_point_sample
from pcdiff.runtime.paths import is_file
from pcdiff.runtime.torch_files import check_named_tensors, load_without_code, put_weights

FILE_NAME = "pointnet.pt"
VARIABLE = "PCDIFF_POINTNET"
BATCH = 64
"""Clouds computed at once; part of the score, since the b-th cloud of a batch is sampled from its point b on."""


class Layer(NamedTuple):
    """Sizes of a grouping layer: centers, radius, neighbors of each; None groups all points."""

    centers: int
    radius: float
    neighbors: int


LAYERS = (Layer(512, 0.2, 32), Layer(128, 0.4, 64), None)


class SetAbstraction(nn.Module):
    """Group points about some of them, a small net for each point, the maximum (Qi et al., 2017, section 3.2).

    As in point-e's code in evaluation: centers are farthest points, from point b on in the b-th cloud; a group
    holds the first points, by index, at a squared distance of at most the radius squared, and the first again where
    there are too few.

    Args:
        layer: sizes; None for one group of all points, about the origin.
        widths: channels in and after each layer of the net.
    """

    def __init__(self, layer: Layer | None, widths: list[int]):
        super().__init__()
        self.layer = layer
        # named as in the file
        self.mlp_convs = nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in itertools.pairwise(widths))
        self.mlp_bns = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])

    def forward(self, x: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return centers `(B, S, 3)` and their features of points `(B, N, 3)` and theirs, `(B, N, C)` or None."""
        if self.layer is None:
            centers, grouped = x.new_zeros(len(x), 1, 3), x[:, None]
            h = grouped if features is None else torch.cat([grouped, features[:, None]], dim=3)
        else:
            start = torch.arange(len(x), device=x.device) % x.shape[1]
            # fewer points than centers: index 0 comes again, as there
            chosen = farthest_point_sample(x, self.layer.centers, start, legacy=x.shape[1] < self.layer.centers)
            centers = _picked(x, chosen)
            group = first_within(x, centers, self.layer.radius, self.layer.neighbors)
            h = _picked(x, group) - centers[:, :, None]
            h = h if features is None else torch.cat([h, _picked(features, group)], dim=3)
        h = h.permute(0, 3, 2, 1)  # (B, C, neighbors, S)
        for conv, norm in zip(self.mlp_convs, self.mlp_bns, strict=True):
            h = F.relu(norm(conv(h)))
        return centers, h.max(dim=2).values.mT


class Classified(NamedTuple):
    """Features `(B, F)` and log-probabilities `(B, K)` of clouds."""

    features: Tensor
    log_probabilities: Tensor


class PointNet2(nn.Module):
    """point-e's classifier: PointNet++ with single-scale grouping, of twice the width (Qi et al., 2017).

    Args:
        width: of the first layer, 128 in point-e's file.
        num_classes: K.
    """

    def __init__(self, width: int = 128, num_classes: int = 40):
        super().__init__()
        w = width
        self.sa1 = SetAbstraction(LAYERS[0], [3, w, w, 2 * w])
        self.sa2 = SetAbstraction(LAYERS[1], [2 * w + 3, 2 * w, 2 * w, 4 * w])
        self.sa3 = SetAbstraction(LAYERS[2], [4 * w + 3, 4 * w, 8 * w, 16 * w])
        self.fc1, self.bn1 = nn.Linear(16 * w, 8 * w), nn.BatchNorm1d(8 * w)
        self.fc2, self.bn2 = nn.Linear(8 * w, 4 * w), nn.BatchNorm1d(4 * w)
        self.fc3 = nn.Linear(4 * w, num_classes)

    def forward(self, x: Tensor) -> Classified:
        """Return features and log-probabilities of clouds `(B, N, 3)` that `unit_ball` has normalized."""
        centers, h = self.sa1(x, None)
        centers, h = self.sa2(centers, h)
        h = self.sa3(centers, h)[1][:, 0]
        features = self.bn2(self.fc2(F.relu(self.bn1(self.fc1(h)))))
        return Classified(features, self.fc3(F.relu(features)).log_softmax(dim=1))


def first_within(x: Tensor, centers: Tensor, radius: float, k: int) -> Tensor:
    """Return the indices `(B, S, k)` of the first points of `x (B, N, 3)` within a radius of `centers (B, S, 3)`.

    `pcdiff.ops.ball_query` but for the border, which belongs to the ball here, and for the squared distances, which
    are rounded as point-e rounds them: from squared norms and a product.
    """
    squared = -2 * centers @ x.mT + centers.square().sum(2)[:, :, None] + x.square().sum(2)[:, None]
    outside = x.shape[1]
    index = torch.arange(outside, device=x.device).expand(squared.shape)
    found = index.where(squared <= radius**2, outside).sort(dim=2).values[:, :, :k]
    first = found[:, :, :1]
    found = F.pad(found, (0, k - found.shape[2]), value=outside) if found.shape[2] < k else found
    return found.where(found < outside, first).clamp(max=outside - 1)


def unit_ball(clouds: Tensor) -> Tensor:
    """Return clouds `(n, P, 3)` about their centroids, their farthest points at distance 1.

    Raises:
        InputError: all points of a cloud are one.
    """
    clouds = clouds - clouds.mean(dim=1, keepdim=True)
    reach = clouds.square().sum(dim=2).sqrt().amax(dim=1)
    if len(flat := (reach == 0).nonzero().flatten()):
        raise InputError(f"cloud {int(flat[0])} has zero extent: all its points are one, nothing to classify")
    return clouds / reach[:, None, None]


@torch.no_grad()
def classify(net: PointNet2, clouds: Tensor) -> Classified:
    """Return features and log-probabilities of clouds `(n, P, 3)` in any unit, in batches as point-e takes them."""
    like = net.fc1.weight
    parts = [net(unit_ball(part.to(like.device, torch.float64)).to(like.dtype)) for part in clouds.split(BATCH)]
    return Classified(*(torch.cat([getattr(part, name) for part in parts]).cpu() for name in Classified._fields))


def find_weights(path: str | Path | None = None) -> Path:
    """Return the classifier's file: the one given, else `$PCDIFF_POINTNET`, else in torch's hub folder.

    Raises:
        InputError: it is nowhere; the message names the file and where to put it. Nothing is downloaded.
    """
    named = path or os.environ.get(VARIABLE)
    if named:
        if not is_file(named):
            raise InputError(f"P-FID's classifier: no file {named}{'' if path else f' (from {VARIABLE})'}")
        return Path(named)
    place = Path(torch.hub.get_dir()) / "checkpoints" / FILE_NAME  # follows TORCH_HOME
    if not is_file(place):
        raise InputError(
            f"P-FID's classifier: put point-e's {FILE_NAME} at {place}, or name it by {VARIABLE}; "
            "--metrics chooses scores that need no file"
        )
    return place


def load(path: str | Path | None = None) -> PointNet2:
    """Open the classifier, `pointnet.pt` of point-e, without running any code in it.

    Args:
        path: the file; see `find_weights`.

    Raises:
        InputError: the file is nowhere, is unreadable, or does not fit; keys left over or missing are listed.
    """
    found = find_weights(path)
    held = load_without_code(found)
    weights = held.get("model_state_dict") if isinstance(held, dict) else None
    check_named_tensors(weights, f"{found}: model_state_dict")
    first, last = (weights.get(name) for name in ("sa1.mlp_convs.0.weight", "fc3.weight"))
    if first is None or first.dim() != 4 or last is None or last.dim() != 2:
        raise InputError(f"{found}: no weights of PointNet++: sa1.mlp_convs.0.weight and fc3.weight are missing")
    net = PointNet2(len(first), len(last))
    try:
        put_weights(net, weights, "PointNet++")
    except InputError as error:
        raise error.within(found) from None
    return net.eval()


@lru_cache(maxsize=1)
def _opened(path: Path, changed: int) -> tuple[PointNet2, str]:
    return load(path), hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def the_classifier() -> tuple[PointNet2, str]:
    """Return the classifier in its usual place, and the beginning of its file's SHA-256; opened once.

    Raises:
        InputError: see `load`.
    """
    path = find_weights()
    return _opened(path, path.stat().st_mtime_ns)


def _picked(values: Tensor, index: Tensor) -> Tensor:
    """Return rows `(B, *dims, C)` of `values (B, N, C)` at `index (B, *dims)`."""
    rows = torch.arange(len(values), device=values.device).view(-1, *[1] * (index.dim() - 1))
    return values[rows, index]
