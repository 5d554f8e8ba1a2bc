"""A model that completes clouds: the denoiser draws the rest of a cloud, some points of which are given."""

from typing import Any

import torch
from torch import Tensor, nn

from pcdiff.config.model import check_sees_points
from pcdiff.errors import InputError, OutOfRange
from pcdiff.models.base import POINT_DIM, PointCloudModel
from pcdiff.nets.given_points import WithGivenPoints
from pcdiff.runtime.call_checks import checked
from pcdiff.runtime.cloud_batch import CloudBatch


class Completion(PointCloudModel):
    """Diffusion of the points of a cloud that are not given (Zhou, Du & Wu, PVD, ICCV 2021, section 3.3).

    The net sees the given points, clean, beside the others, which alone are noised, trained on and drawn. Nothing
    tells it which are which, unless `mark_given` asks for it. The clouds of a batch hold their given points first:
    `pcdiff.data.PartialClouds` puts them there. Where a parametrization scales what the net is fed, the given
    points enter as clean ones would at the end of sampling, of the same scale at every time.

    In place of a code stand the given points: `decode(given, num_points)` draws `num_points` further ones, and
    `complete` returns both. Arguments as for `PointCloudModel`.

    Example:
        >>> from pcdiff.config import ModelConfig
        >>> model = Completion(ModelConfig(kind="completion", num_given=200), net=MyNet())  # doctest: +SKIP
        >>> clouds = model.eval().complete(halves[:, :200], 2048)  # (n, 2048, 3)  # doctest: +SKIP
    """

    kind = "completion"

    def _net(self) -> nn.Module:
        config = self.config
        if config.num_given < 1:
            raise OutOfRange("num_given", "at least 1", config.num_given)
        sizes = {"point_dim": POINT_DIM + 1} if config.mark_given else {}
        net = self._part("net", cond_dim=self.code_dim, **sizes)
        check_sees_points(config.net, net)
        if getattr(net, "learned_variance", False):
            raise InputError(f"a completion model takes no learned variance, got the net {config.net} with one")
        return WithGivenPoints(net, config.mark_given)

    @property
    def code_dim(self) -> int:
        """0: there is no code."""
        return 0

    def net_condition(self, z: Any, labels: Tensor | None = None) -> Any:
        """Return what the net is conditioned on for given points `(B, G, 3)`."""
        start = torch.zeros(len(z), device=z.device, dtype=z.dtype)
        return {"given": self.denoiser.parametrization.net_input(self.denoiser.process, z, start)}

    def blank_codes(self, count: int) -> Tensor:
        """See `PointCloudModel.blank_codes`: given points `(count, num_given, 3)`."""
        return torch.zeros(count, self.config.num_given, self.point_dim, device=self.device)

    def draw(
        self, batch: Tensor | CloudBatch, count: int, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """See `PointCloudModel.draw`: noise of the points that are not given."""
        x, _ = self._batch(batch, None, None)
        return super().draw(self._apart(x)[1], count, generator)

    def loss_terms(
        self, batch: Tensor | CloudBatch, generator: torch.Generator | None = None, **draws: Tensor
    ) -> dict[str, Tensor]:
        """See `PointCloudModel.loss_terms`: the objectives on the points behind the first `num_given`.

        Raises:
            InputError: a cloud has no further points.
        """
        given, rest = self._apart(self._batch(batch, None, None)[0])
        return {"loss": self.reconstruction_term(rest, given, generator, **draws).mean()}

    @checked
    def complete(self, given: Tensor, num_points: int, **options: Any) -> Tensor:
        """Draw the rest of clouds.

        Args:
            given: points of each cloud `(B, G, 3)`, in the training set's normalization; as many as `num_given`
                in training, though any number is taken.
            num_points: points of each result, the given ones included.
            **options: see `decode`.

        Returns:
            `(B, num_points, 3)`, the first G of each the given ones, unchanged.

        Raises:
            InputError: `num_points` leaves nothing to draw; or see `decode`.
        """
        if num_points <= given.shape[1]:
            raise InputError(f"num_points must be more than the {given.shape[1]} points given, got {num_points}")
        return torch.cat([given, self.decode(given, num_points - given.shape[1], **options)], dim=1)

    def _apart(self, x: Tensor) -> tuple[Tensor, Tensor]:
        count = self.config.num_given
        if x.shape[1] <= count:
            raise InputError(f"num_given must be below the {x.shape[1]} points of a cloud, got {count}")
        return x[:, :count], x[:, count:]
