# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Contrast of one sensor with the others at the same place.

Letters as in :mod:`torchgeo_anysensor.types`, and ``M`` sensors.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .chunks import Rule, contrast
from .inputs import Inputs, read_inputs
from .temperature import Temperature

#: Where the learned bias of the sigmoid form starts: most pairs of a batch are wrong ones.
_BIAS = -10.0

#: Rows of :func:`retrieval_accuracy` that are compared at a time.
_CHUNK = 512


def _of_others(x: Tensor) -> Tensor:
    """Sum over the other sensors, ``(M, ...)``; nothing is subtracted, so nothing cancels."""
    none = torch.zeros_like(x[:1])
    before = torch.cat([none, x[:-1]]).cumsum(dim=0)
    after = torch.cat([x[1:], none]).flip(0).cumsum(dim=0).flip(0)
    return before + after


def _targets(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors ``(M, B, D)`` of each sensor and of its others' mean, and where both are."""
    shared = inputs.there & (inputs.there.sum(dim=0) > 1)
    z = F.normalize(torch.where(shared[..., None], inputs.z, 0.0), dim=-1)
    weight = inputs.there.to(z.dtype) if inputs.weight is None else inputs.weight  # (M, B)
    total = _of_others(weight)
    ok = shared & (total > 0)
    mean = _of_others(weight[..., None] * z) / torch.where(total > 0, total, 1.0)[..., None]
    return z, F.normalize(mean, dim=-1), ok


class CrossSensorInfoNCE(nn.Module):
    """Each sensor finds, among the places of the batch, the one that the others saw.

    The positive of a sensor's embedding is the mean, weighted by confidence, of the embeddings of
    the *other* sensors present in the sample, and the negatives are such means of the other
    samples. The cost grows linearly with the number of sensors, and memory with the batch, of which
    only a chunk is compared at a time. A sensor may be missing in any sample: a row that no other
    sensor shares, or that has no negative, takes no part. For two sensors the loss is the symmetric
    InfoNCE of CLIP (Radford et al. 2021, arXiv 2103.00020); in the sigmoid form each pair counts by
    itself (SigLIP, Zhai et al. 2023, arXiv 2303.15343), with a learned bias that starts at -10.

    In training on several ranks the negatives are those of all ranks, which may hold batches of
    different sizes and sensors. The value is then the loss of the whole batch on every rank. The
    gradient of a rank's embeddings is that of the whole batch times the number of ranks, so that
    the mean that DistributedDataParallel takes is the gradient of one process with the whole batch.
    In evaluation, where ranks may have different numbers of batches, each compares its own rows.

    Attributes:
        init_args: Plain values that rebuild the loss.
    """

    init_args: dict[str, Any]

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        temperature_bounds: Sequence[float] | None = None,
        sigmoid: bool = False,
        min_distance: float = 0.0,
        max_similarity: float | None = None,
        chunk: int = 512,
        gather: bool = True,
    ) -> None:
        """Make the loss.

        Args:
            temperature: Divisor of the cosines, at the start if it is learned.
            temperature_bounds: The least and the largest value of a learned temperature, such as
                ``(0.01, 1)``; it is fixed if they are not given.
            sigmoid: Tell right pairs from wrong ones, each by itself, instead of finding the right
                one among all.
            min_distance: Metres; samples that are nearer on the ground are no negatives.
            max_similarity: Cosine of two targets; samples whose targets are more alike are no
                negatives. Just below 1: an encoder that has not learned yet makes all much alike.
            chunk: Rows that are compared at a time, with all others. Changes the memory, not the
                loss.
            gather: In training on several ranks, compare with the rows of all.

        Raises:
            ValueError: If the temperature is not positive, or not between its bounds; if
                min_distance is negative, max_similarity not between -1 and 1, or chunk below 1.
        """
        super().__init__()
        self.init_args = {
            'temperature': temperature,
            'temperature_bounds': None if temperature_bounds is None else [*temperature_bounds],
            'sigmoid': sigmoid,
            'min_distance': min_distance,
            'max_similarity': max_similarity,
            'chunk': chunk,
            'gather': gather,
        }
        if not (min_distance >= 0 and math.isfinite(min_distance)):
            raise ValueError(f'min_distance must be at least 0 metres, got {min_distance}')
        if max_similarity is not None and not -1 < max_similarity <= 1:
            raise ValueError(f'max_similarity must be a cosine, got {max_similarity}; try 0.99')
        if chunk < 1:
            raise ValueError(f'chunk must be at least 1 row, got {chunk}')
        self._temperature = Temperature(temperature, bounds=temperature_bounds)
        self.bias = nn.Parameter(torch.tensor(_BIAS)) if sigmoid else None
        self.min_distance = min_distance
        self.max_similarity = max_similarity
        self.chunk = chunk
        self.gather = gather

    @property
    def temperature(self) -> float:
        """Divisor of the cosines, as it is now."""
        return self._temperature.value

    def forward(
        self,
        embeddings: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        *,
        weight: Mapping[str, Tensor] | None = None,
        place: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss, in float32 (float64 if it gets that) whatever the precision around it.

        Args:
            embeddings: ``(B, D)`` for each sensor; anything, NaN too, in rows that are absent.
            present: ``(B,)`` bool for each sensor, the samples that it saw; all if not given.
            weight: ``(B,)`` for each sensor, at least 0: how much it counts in the mean that the
                others must find; 1 if not given. Only the ratios within a sample matter.
            place: ``(B, 2)`` metres on a map, or ``(B, 3)`` metres from the centre of the Earth:
                where each row lies, for *min_distance*; NaN where that is not known.

        Returns:
            The mean over sensors of the mean over the samples that take part; 0, with a gradient of
            0, if there is none.

        Raises:
            ValueError: If there are fewer than two sensors, keys or shapes disagree, a weight is
                negative, or there is a *min_distance* but no *place*.
        """
        if self.min_distance > 0 and place is None:
            raise ValueError(
                f'min_distance={self.min_distance} needs the place of each row; pass place=, '
                'NaN where it is not known'
            )
        inputs = read_inputs(
            embeddings,
            present,
            weight=weight,
            place=place,
            over_ranks=self.gather and self.training,
        )
        with torch.autocast(inputs.z.device.type, enabled=False):
            z, target, ok = _targets(inputs)
            rule = Rule(
                ok,
                inputs.ranks,
                place=inputs.place,
                min_distance=self.min_distance,
                max_similarity=self.max_similarity,
                sigmoid=self.bias is not None,
                chunk=self.chunk,
            )
            bias = None if self.bias is None else self.bias.to(z.dtype)
            loss, count = contrast(z, target, self._temperature.scale(z), bias, rule)  # (M,) each
            some = count > 0
            return (loss / count.clamp(min=1)).sum() / some.sum().clamp(min=1)


class Retrieval(NamedTuple):
    """How often a sensor finds the place that the others saw."""

    accuracy: Tensor  #: ``()`` share of right first choices
    chance: Tensor  #: ``()`` the share that guessing reaches


@torch.no_grad()
def retrieval_accuracy(
    embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
) -> Retrieval:
    """Measure how often each sensor's embedding is nearest to the others' mean of its sample.

    Args:
        embeddings: ``(B, D)`` for each sensor; anything, NaN too, in rows that are absent.
        present: ``(B,)`` bool for each sensor, the samples that it saw; all if not given.

    Returns:
        Accuracy and chance level, over the samples that a sensor shares with another, then over
        sensors; NaN if no sample is shared.

    Raises:
        ValueError: If there are fewer than two sensors, or keys or shapes disagree.
    """
    inputs = read_inputs(embeddings, present)
    hits, guesses = [], []
    with torch.autocast(inputs.z.device.type, enabled=False):
        z, target, ok = _targets(inputs)
        for own, others, here in zip(z, target, ok):
            if not here.any():
                continue
            own, others = own[here], others[here]  # (n, D), n samples that it shares
            index = torch.arange(len(own), device=own.device)
            first = torch.cat([(rows @ others.T).argmax(dim=1) for rows in own.split(_CHUNK)])
            hits.append((first == index).float().mean())
            guesses.append(first.new_ones((), dtype=torch.float32) / len(own))
    if not hits:
        nothing = torch.full((), math.nan, device=inputs.z.device)
        return Retrieval(nothing, nothing)
    return Retrieval(torch.stack(hits).mean(), torch.stack(guesses).mean())
