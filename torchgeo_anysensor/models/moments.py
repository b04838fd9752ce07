# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""How features of an encoder vary between places, and between the sensors at one place.

Letters as in :mod:`torchgeo_anysensor.types`, and ``d`` features of an encoder, ``R`` random
functions of them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import SensorEncoder
from .met_bands import MetBands

#: Random functions of each group of features among which agreement is looked for.
RANDOM = 256
#: Added to the disagreement of each feature, as a share of the feature's own variance.
_RIDGE = 1e-5
#: How far a random function bends over the spread of the features.
_BEND = 1.5


class RandomFeatures(nn.Module):
    """Features, and random nonlinear functions of them, of which a linear map can make nearly any.

    After Rahimi and Recht (2007, "Random features for large-scale kernel machines"); a function is
    a GELU of a random direction in one group of features. What sensors agree about is balanced
    first: features are mostly brightness, and so would be all functions of them.
    """

    centre: Tensor
    spread: Tensor
    balance: Tensor
    direction: Tensor
    offset: Tensor

    def __init__(self, groups: Sequence[int], *, count: int = RANDOM) -> None:
        """Draw the functions, always the same.

        Args:
            groups: Number of features of each group, ``d`` in all.
            count: Number of functions of each group, ``R`` in all.
        """
        super().__init__()
        self.groups = [*groups]
        generator = torch.Generator().manual_seed(0)
        parts = [torch.randn(n, count, generator=generator) * (_BEND / n**0.5) for n in groups]
        self.register_buffer('centre', torch.zeros(sum(groups)))
        self.register_buffer('spread', torch.ones(sum(groups)))
        self.register_buffer('balance', torch.eye(sum(groups)))
        self.register_buffer('direction', torch.block_diag(*parts))  # type: ignore[no-untyped-call]
        self.register_buffer('offset', torch.randn(count * len(parts), generator=generator))

    @property
    def out_dim(self) -> int:
        """Number ``d + R``."""
        return sum(self.direction.shape)

    @torch.no_grad()
    def settle(self, *, mean: Tensor, total: Tensor, within: Tensor) -> None:
        """Follow the features.

        Args:
            mean: ``(d,)`` over all sensors and places.
            total: ``(d, d)`` covariance over all sensors and places.
            within: The same of the sensors around the mean of their place.
        """
        self.centre.copy_(mean)
        self.spread.copy_(total.diagonal().clamp(min=1e-12).sqrt())
        start = 0
        for size in self.groups:
            own = slice(start, start + size)
            self.balance[own, own] = _balance(total[own, own], within[own, own])
            start += size

    def standardise(self, x: Tensor) -> Tensor:
        """Give features ``(..., d)`` of mean 0 and deviation 1."""
        return (x.float() - self.centre) / self.spread

    def forward(self, x: Tensor) -> Tensor:
        """Give ``(..., d + R)``: features ``(..., d)``, standardised, and functions of them."""
        bent = F.gelu((x.float() - self.centre) @ (self.balance @ self.direction) + self.offset)
        return torch.cat([self.standardise(x), bent], dim=-1)


def _balance(total: Tensor, within: Tensor) -> Tensor:
    """Make a linear map that gives all that sensors agree about the same size.

    Along each axis of agreement the result has the variance ``signal / (1 + signal)``, times what
    makes its mean 1. As a symmetric function of the covariances it changes little when they do.

    Args:
        total: ``(d, d)`` float64; see :meth:`RandomFeatures.settle`.
        within: Likewise.
    """
    spread, total, within = scaled(total, within)
    variance, axes = torch.linalg.eigh(within)
    root = (axes * variance.rsqrt()) @ axes.T  # root within root is 1
    signal, axes = torch.linalg.eigh(root @ (total - within) @ root)
    known = signal.clamp(min=0) / (1 + signal.clamp(min=0))
    size = (known / (1 + signal.clamp(min=0)) / known.mean().clamp(min=1e-12)).sqrt()
    return root / spread[:, None] @ (axes * size) @ axes.T


def scaled(total: Tensor, within: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Spread of features, and their covariances if each is divided by its own, with a ridge."""
    total, within = total.double(), within.double()
    spread = total.diagonal().clamp(min=1e-12).sqrt()
    total, within = total / spread / spread[:, None], within / spread / spread[:, None]
    return spread, total, within + _RIDGE * torch.eye(len(within), device=within.device)


class CrossSensorMoments(nn.Module):
    """Running mean and covariances of features, between places and between sensors at a place.

    They are those of :attr:`features`, random functions included. For each batch, first
    :meth:`settle`, then :meth:`update` with what :attr:`features` makes of it. Places are compared
    within a batch alone, of which there should be several: the mean of a batch moves with the weights
    of an encoder in training, and so differs from the last one's by what no place is responsible for.
    """

    plain_total: Tensor
    plain_within: Tensor
    mean: Tensor
    total: Tensor
    within: Tensor
    updates: Tensor

    def __init__(
        self, groups: Sequence[int], *, random: int = RANDOM, momentum: float = 0.1
    ) -> None:
        """Start with nothing.

        Args:
            groups: Number of features of each group, ``d`` in all.
            random: Random functions of each group, ``R`` in all.
            momentum: Weight of a new batch; the first ones are averaged.
        """
        super().__init__()
        self.momentum = momentum
        self.features = RandomFeatures(groups, count=random)
        for name in ('plain_total', 'plain_within'):  # before random functions
            zeros = torch.zeros(sum(groups), sum(groups), dtype=torch.float64)
            self.register_buffer(name, zeros)
        size = self.features.out_dim
        self.register_buffer('mean', torch.zeros(size))
        self.register_buffer('total', torch.zeros(size, size))
        self.register_buffer('within', torch.zeros(size, size))
        self.register_buffer('updates', torch.zeros((), dtype=torch.long))

    @property
    def _weight(self) -> float:
        """Weight of the next batch."""
        return max(self.momentum, 1 / (int(self.updates) + 1))

    @torch.no_grad()
    def settle(self, *, mean: Tensor, total: Tensor, within: Tensor) -> None:
        """Follow the features, before the random functions of a batch are taken.

        Args:
            mean: ``(d,)`` over all sensors and places of the batch.
            total: ``(d, d)`` covariance over them.
            within: The same of the sensors around the mean of their place.
        """
        weight, centre = self._weight, self.features.centre.double()
        self.plain_total.lerp_(total.double(), weight)
        self.plain_within.lerp_(within.double(), weight)
        self.features.settle(
            mean=centre.lerp(mean.double(), weight),
            total=self.plain_total,
            within=self.plain_within,
        )

    @torch.no_grad()
    def update(self, *, mean: Tensor, total: Tensor, within: Tensor) -> None:
        """Take in a batch.

        Args:
            mean: ``(d + R,)``.
            total: ``(d + R, d + R)`` covariance over all sensors and places.
            within: The same of the sensors around the mean of their place.
        """
        weight = self._weight
        self.updates += 1
        self.total.lerp_(total, weight)
        self.within.lerp_(within, weight)
        self.mean.lerp_(mean, weight)


class EncoderMoments(nn.Module):
    """Moments of what an encoder says, of its tokens and of its detail beside them, of which bands."""

    def __init__(self, encoder: SensorEncoder) -> None:
        """Start with nothing.

        Args:
            encoder: Whose features they are of.
        """
        super().__init__()
        dim, fine = encoder.embed_dim, encoder.detail_dim
        self.tokens = CrossSensorMoments([dim])
        self.detail = CrossSensorMoments([dim, fine]) if fine else None
        self.bands = MetBands()
