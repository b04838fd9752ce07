# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Pretraining: sensors learn to agree, and how far they can be trusted."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from torch import Tensor

from ..losses import disagreement_nll
from ..models import Features, Gaussian, GaussianHead, SensorEncoder
from ..types import MultiSensorSample
from .base import spread_rows
from .contrastive import CrossSensorContrastive, Level


class Latents(NamedTuple):
    """Estimates of each sensor of a batch, for :func:`~..models.fuse`.

    Where a sensor has not seen enough, its estimate means nothing.
    """

    tokens: dict[str, Gaussian]  #: ``(B, N, P)``
    seen_tokens: dict[str, Tensor]  #: ``(B, N)`` bool
    patches: dict[str, Gaussian]  #: ``(B, P)``
    seen_patches: dict[str, Tensor]  #: ``(B,)`` bool
    grid: tuple[int, int]  #: rows and columns of the tokens


class ProbabilisticContrastive(CrossSensorContrastive):
    """Contrast whose embeddings have a variance in each dimension.

    The projections are :class:`~..models.GaussianHead`: the contrast compares their means, and the
    variances learn from how far the sensors are apart (:func:`~..losses.disagreement_nll`). In the
    mean that the others must find, a sensor counts by its precision. Train with
    :class:`~..transforms.RandomClouds`: clear views alone do not teach when not to be sure.

    Logs also ``patch_nll`` and ``token_nll``, the likelihood of the differences between sensors, and
    ``patch_chi2`` and ``token_chi2``, which are 1 when the variances are true on average.
    """

    def __init__(
        self,
        encoder: SensorEncoder,
        *,
        variance_weight: float = 0.1,
        log_var_bounds: Sequence[float] = (-8.0, 4.0),
        **options: Any,
    ) -> None:
        """Make the task.

        Args:
            encoder: What is trained.
            variance_weight: Weight of the likelihood beside the contrast of its level.
            log_var_bounds: What the log-variances stay between.
            options: As for :class:`CrossSensorContrastive`.

        Raises:
            ValueError: If no feature is left for the contrast, or the bounds do not rise.
        """
        super().__init__(encoder, **options)
        out_dim = self.hparams['projection_dim']
        self.patch_projection, self.token_projection = (
            GaussianHead(self.shared_dim, out_dim, log_var_bounds=log_var_bounds) for _ in range(2)
        )
        self.variance_weight = variance_weight

    def losses(self, batch: MultiSensorSample) -> dict[str, Tensor]:
        """Compare the sensors of a batch; see :meth:`CrossSensorContrastive.losses`."""
        values = super().losses(batch)
        weights = {'patch_nll': self.patch_weight, 'token_nll': self.token_weight}
        for key, weight in weights.items():
            if weight:
                values['loss'] = values['loss'] + self.variance_weight * weight * values[key]
        return values

    def embed(self, features: Features) -> Tensor:
        """Give the means of the patches."""
        return cast(Gaussian, self.patch_projection(features.pooled[:, : self.shared_dim])).mean

    def latents(self, batch: MultiSensorSample) -> Latents:
        """Estimate the latents of a batch, with each sensor by itself.

        Args:
            batch: Of :func:`~..datasets.collate_sensors`, with at least one sensor.
        """
        features = self(batch)
        present = {name: batch['present'][name].to(self.device) for name in features}
        patches, seen, _ = self._patches(features, present)
        tokens = {
            name: self.token_projection(f.tokens[..., : self.shared_dim])
            for name, f in features.items()
        }
        return Latents(
            {n: Gaussian(*(spread_rows(x, present[n]) for x in g)) for n, g in tokens.items()},
            {name: spread_rows(f.valid, present[name]) for name, f in features.items()},
            {name: self.patch_projection(x) for name, x in patches.items()},
            seen,
            next(iter(features.values())).grid,
        )

    def _compare(
        self,
        level: Level,
        x: Mapping[str, Tensor],
        seen: Mapping[str, Tensor],
        *,
        weight: Mapping[str, Tensor] | None = None,
        **options: Any,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Compare means by their precision, and judge the variances."""
        head = self.patch_projection if level == 'patch' else self.token_projection
        found = {name: head(rows) for name, rows in x.items()}
        means = {name: g.mean for name, g in found.items()}
        # The geometric mean over dimensions, which one sure dimension does not rule
        precision = {n: (-g.log_var.detach().mean(dim=-1)).exp() for n, g in found.items()}
        if weight is not None:
            precision = {name: p * weight[name] for name, p in precision.items()}
        loss = self.loss(means, seen, weight=precision, **options)
        nll, chi2 = disagreement_nll(means, {n: g.log_var for n, g in found.items()}, seen)
        values = {f'{level}_loss': loss, f'{level}_nll': nll, f'{level}_chi2': chi2}
        return values, means
