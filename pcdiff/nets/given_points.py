"""A net that sees the points of a partial cloud among those that it denoises: completion, PVD's way."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.errors import InputError


class WithGivenPoints(nn.Module):
    """Feed a net the given points before the noisy ones, and return its output for the latter alone.

    Zhou, Du and Wu (PVD, ICCV 2021, section 3.3): the given points keep their clean values at every time, and what
    the net says of them is dropped, so that neither loss nor sampler ever touches them.

    Args:
        net: a net of clouds whose points see one another, `net(x, t, cond) -> like x`.
        mark: the net takes a coordinate more, which is 1 of the given points and 0 of the others. PVD's has none.

    Example:
        >>> from pcdiff.nets import PointwiseNet
        >>> net = WithGivenPoints(PointwiseNet(cond_dim=0))
        >>> given, x = torch.zeros(2, 5, 3), torch.zeros(2, 7, 3)
        >>> net(x, torch.zeros(2), {"given": given}).shape
        torch.Size([2, 7, 3])
    """

    pointwise = False

    def __init__(self, net: nn.Module, mark: bool = False):
        super().__init__()
        self.net, self.mark = net, mark
        self.label = getattr(net, "label", "numbers")

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Any]) -> Tensor:
        """Return the net's output for the noisy points.

        Args:
            x: noisy points `(B, N, D)`.
            t: time values `(B,)`.
            cond: `given`, points `(B, G, D)` as the net is to see them, and maybe `vector` `(B, F)`, what it is
                conditioned on beside them.

        Returns:
            A tensor like `x`.

        Raises:
            InputError: there are no given points, or not for every cloud.
        """
        given = cond.get("given") if isinstance(cond, dict) else None
        if given is None or given.dim() != 3 or len(given) != len(x) or given.shape[2] != x.shape[2]:
            got = None if given is None else tuple(given.shape)
            raise InputError(f"the given points must be ({len(x)}, G, {x.shape[2]}), got {got}")
        count, dims = given.shape[1:]
        points = torch.cat([given.to(x), x], dim=1)
        if self.mark:
            points = torch.cat(
                [F.pad(points[:, :count], (0, 1), value=1.0), F.pad(points[:, count:], (0, 1))], dim=1
            )
        return self.net(points, t, cond.get("vector"))[:, count:, :dims]
