# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Contrast of one sensor with the others at the same place.

Letters as in :mod:`torchgeo_anysensor.types`, and ``n`` samples that take part for a sensor.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _check(embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor] | None) -> None:
    """Raise if the embeddings of the sensors do not fit each other.

    Raises:
        ValueError: If there are fewer than two sensors, or keys or shapes disagree.
    """
    if len(embeddings) < 2:
        raise ValueError(f'need the embeddings of at least two sensors, got {sorted(embeddings)}')
    shapes = {name: tuple(x.shape) for name, x in embeddings.items()}
    if len(set(shapes.values())) > 1 or len(next(iter(shapes.values()))) != 2:
        raise ValueError(f'embeddings must all be (B, D), the same for each sensor, got {shapes}')
    if present is None:
        return
    if present.keys() != embeddings.keys():
        raise ValueError(
            f'present must name the sensors of embeddings, {sorted(embeddings)}, '
            f'got {sorted(present)}'
        )
    batch = next(iter(shapes.values()))[0]
    wrong = {name: tuple(x.shape) for name, x in present.items() if x.shape != (batch,)}
    if wrong:
        raise ValueError(f'present must be ({batch},) for each sensor, got {wrong}')


def _similarities(
    embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor] | None
) -> Iterator[Tensor]:
    """Compare each sensor with the centroid of the others.

    Args:
        embeddings: ``(B, D)`` for each sensor.
        present: ``(B,)`` bool for each sensor, or ``None`` if all are there.

    Yields:
        For each sensor that shares a sample with another: ``(n, n)`` cosines of its embeddings
        (rows) and the centroids of the others (columns) in its ``n`` shared samples.
    """
    z = torch.stack([x.float() for x in embeddings.values()])  # (M, B, D), M sensors
    if present is None:
        there = z.new_ones(z.shape[:2], dtype=torch.bool)
    else:
        there = torch.stack([present[name].bool() for name in embeddings])  # (M, B)
    z = F.normalize(torch.where(there[..., None], z, 0.0), dim=-1)  # absent ones stay zero
    total, count = z.sum(dim=0), there.sum(dim=0)  # (B, D), (B,)
    for own, here in zip(z, there):
        shared = here & (count > 1)
        if shared.any():
            centroid = F.normalize((total - own)[shared], dim=-1)
            yield own[shared] @ centroid.T


class CrossSensorInfoNCE(nn.Module):
    """Each sensor finds, among the places of the batch, the one that the others saw.

    The positive of a sensor's embedding is the centroid of the embeddings of the *other* sensors
    present in the sample, and the negatives are such centroids of the other samples. The cost grows
    linearly with the number of sensors, a sensor may be missing in any sample, and for two sensors
    the loss is the symmetric InfoNCE of CLIP (Radford et al. 2021, arXiv 2103.00020).

    Attributes:
        init_args: Plain values that rebuild the loss.
    """

    init_args: dict[str, Any]

    def __init__(self, temperature: float = 0.1) -> None:
        """Make the loss.

        Args:
            temperature: Divisor of the cosines.

        Raises:
            ValueError: If the temperature is not positive.
        """
        super().__init__()
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f'temperature must be positive and finite, got {temperature}')
        self.init_args = {'temperature': temperature}
        self.temperature = temperature

    def forward(
        self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Compute the loss, in float32 whatever the precision around it.

        Args:
            embeddings: ``(B, D)`` for each sensor; anything, NaN too, in rows that are absent.
            present: ``(B,)`` bool for each sensor, the samples that it saw; all if not given.

        Returns:
            The mean over sensors of the mean over the samples that the sensor shares with another;
            0, with a gradient of 0, if no sample is shared.

        Raises:
            ValueError: If there are fewer than two sensors, or keys or shapes disagree.
        """
        _check(embeddings, present)
        device = next(iter(embeddings.values())).device
        with torch.autocast(device.type, enabled=False):
            losses = [
                F.cross_entropy(
                    cosines / self.temperature, torch.arange(len(cosines), device=device)
                )
                for cosines in _similarities(embeddings, present)
            ]
            if losses:
                return torch.stack(losses).mean()
            # An empty selection keeps the graph, and no value can spoil its sum
            return torch.stack([x[:0].float().sum() for x in embeddings.values()]).sum()


class Retrieval(NamedTuple):
    """How often a sensor finds the place that the others saw."""

    accuracy: Tensor  #: ``()`` share of right first choices
    chance: Tensor  #: ``()`` the share that guessing reaches


@torch.no_grad()
def retrieval_accuracy(
    embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
) -> Retrieval:
    """Measure how often each sensor's embedding is nearest to the others' centroid of its sample.

    Args:
        embeddings: ``(B, D)`` for each sensor; anything, NaN too, in rows that are absent.
        present: ``(B,)`` bool for each sensor, the samples that it saw; all if not given.

    Returns:
        Accuracy and chance level, over the samples that a sensor shares with another, then over
        sensors; NaN if no sample is shared.

    Raises:
        ValueError: If there are fewer than two sensors, or keys or shapes disagree.
    """
    _check(embeddings, present)
    device = next(iter(embeddings.values())).device
    hits, guesses = [], []
    with torch.autocast(device.type, enabled=False):
        for cosines in _similarities(embeddings, present):
            right = cosines.argmax(dim=-1) == torch.arange(len(cosines), device=device)
            hits.append(right.float().mean())
            guesses.append(right.new_ones((), dtype=torch.float32) / len(cosines))
    if not hits:
        nothing = torch.full((), math.nan, device=device)
        return Retrieval(nothing, nothing)
    return Retrieval(torch.stack(hits).mean(), torch.stack(guesses).mean())
