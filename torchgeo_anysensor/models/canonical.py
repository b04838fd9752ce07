# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Features ordered by how far sensors agree about them.

Letters as in :mod:`torchgeo_anysensor.types`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..types import SensorSample
from .base import Features, SensorEncoder

#: Added to the disagreement of each feature, as a share of the feature's own variance.
_RIDGE = 1e-4
#: Least share of itself that a feature keeps, however little sensors agree about it.
_KEPT = 0.1


class CrossSensorMoments(nn.Module):
    """Running mean and covariances of features, between places and between sensors at a place."""

    mean: Tensor
    total: Tensor
    within: Tensor
    updates: Tensor

    def __init__(self, dim: int, *, momentum: float = 0.1) -> None:
        """Start with nothing.

        Args:
            dim: Number ``D`` of features.
            momentum: Weight of a new batch; the first ones are averaged.
        """
        super().__init__()
        self.momentum = momentum
        self.register_buffer('mean', torch.zeros(dim))
        self.register_buffer('total', torch.zeros(dim, dim))
        self.register_buffer('within', torch.zeros(dim, dim))
        self.register_buffer('updates', torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, *, mean: Tensor, total: Tensor, within: Tensor) -> None:
        """Take in a batch.

        Args:
            mean: ``(D,)``.
            total: ``(D, D)`` covariance over all sensors and places.
            within: ``(D, D)`` covariance of the sensors around the mean of their place.
        """
        self.updates += 1
        weight = max(self.momentum, 1 / int(self.updates))
        apart = mean - self.mean  # the means of batches vary too
        self.total.lerp_(total, weight).add_(weight * (1 - weight) * torch.outer(apart, apart))
        self.within.lerp_(within, weight)
        self.mean.lerp_(mean, weight)


class CanonicalEncoder(SensorEncoder):
    """An encoder, and a linear map of its tokens to what sensors agree about.

    The token that a sensor makes of a place is seen as ``mean + shared + own``, where ``own`` differs
    by sensor. Along each axis of the map, ``own`` has the variance 1 and ``shared`` the variance
    ``signal``, the largest first; a feature is the mean of ``shared`` given the token, ``signal /
    (1 + signal)`` of it, but a tenth at least: what only one sensor sees is made small, and not lost. This is
    probabilistic discriminant analysis (Ioffe 2006, doi:10.1007/11744085_41) with the place as
    class, whose axes are those of multi-set canonical correlation (Kettenring 1971,
    doi:10.1093/biomet/58.3.433): it needs no labels, and sensors that it never met use the same map.

    The pooled vector is the mean of the valid tokens. What is finer than a token stays as it was. In
    evaluation all is computed in float32, under autocast too: what sensors disagree about is as small
    as bfloat16 rounds.
    """

    mean: Tensor
    weight: Tensor
    signal: Tensor

    def __init__(self, encoder: SensorEncoder) -> None:
        """Wrap an encoder; the map is the identity until :meth:`fit`.

        Args:
            encoder: Any encoder.
        """
        super().__init__()
        self.init_args = {'encoder': encoder}
        self.encoder = encoder
        self.embed_dim = encoder.embed_dim
        self.token_m = getattr(encoder, 'token_m', None)
        self.detail_dim = encoder.detail_dim
        self.register_buffer('mean', torch.zeros(self.embed_dim))
        self.register_buffer('weight', torch.eye(self.embed_dim))
        self.register_buffer('signal', torch.zeros(self.embed_dim))

    @torch.no_grad()
    def fit(self, moments: CrossSensorMoments) -> 'CanonicalEncoder':
        """Find the map.

        Args:
            moments: Of the tokens of the encoder.

        Returns:
            The encoder itself.

        Raises:
            ValueError: If the moments are of nothing, or of other features.
        """
        if moments.mean.shape != self.mean.shape or not int(moments.updates):
            raise ValueError(
                f'moments of {len(moments.mean)} features and {int(moments.updates)} batches do not '
                f'fit an encoder of {self.embed_dim} features; train it with at least two sensors'
            )
        mean, total, within = (x.double() for x in (moments.mean, moments.total, moments.within))
        spread = total.diagonal().clamp(min=1e-12).sqrt()
        total, within = total / spread / spread[:, None], within / spread / spread[:, None]
        within = within + _RIDGE * torch.eye(len(within), device=within.device)
        root = torch.linalg.inv(torch.linalg.cholesky(within))  # root within root^T is 1
        signal, axes = torch.linalg.eigh(root @ (total - within) @ root.T)
        axes = (
            axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
        )  # on any machine
        signal = signal.flip(0).clamp(min=0)
        known = (signal / (1 + signal)).clamp(min=_KEPT)
        size = (known.square() * (1 + signal)).mean().sqrt()  # root mean square of the features
        weight = (root.T @ axes.flip(1)) * known / size / spread[:, None]
        self.mean.copy_(mean)
        self.weight.copy_(weight)
        self.signal.copy_(signal)
        return self

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the encoder, with the arguments of :func:`torch.compile`."""
        self.encoder.compile(*args, **kwargs)

    def forward(self, views: Sequence[SensorSample], *, token_m: float | None = None) -> Features:
        """Encode; see :meth:`SensorEncoder.forward`."""
        device = views[0]['image'].device.type
        half = self.training and torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=half):
            found: Features = self.encoder(views, token_m=token_m)
        with torch.autocast(device, enabled=False):
            tokens = (found.tokens.float() - self.mean) @ self.weight
            seen = found.valid.unsqueeze(-1).float()
            pooled = (tokens * seen).sum(dim=1) / seen.sum(dim=1).clamp(min=1)
        return found._replace(tokens=tokens, pooled=pooled)

    def detail(self, views: Sequence[SensorSample], *, detail_m: float) -> Tensor:
        """Encode what is finer than a token; see :meth:`SensorEncoder.detail`."""
        return self.encoder.detail(views, detail_m=detail_m)
