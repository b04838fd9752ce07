# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Other objectives for several sensors, called like :class:`CrossSensorInfoNCE`, to compare with.

Letters as in :mod:`torchgeo_anysensor.types`, and ``M`` sensors, ``n`` rows that take part in a
term, ``c`` rows of a chunk.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .inputs import Inputs, read_inputs
from .temperature import Temperature

#: From the rows of a chunk and their numbers to the logits ``(c, n)`` of all keys.
type Logits = Callable[[Tensor, Tensor], Tensor]


class _Objective(nn.Module, ABC):
    """What the objectives share: absent sensors and ranks.

    In training on several ranks, each computes the loss of the whole batch, with a gradient for its
    own rows, multiplied by the number of ranks as DistributedDataParallel averages over them.

    Attributes:
        init_args: Plain values that rebuild the loss.
    """

    init_args: dict[str, Any]

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
            weight: As of :class:`CrossSensorInfoNCE`; the papers know no weights, so it changes
                nothing.
            place: Likewise.

        Returns:
            The mean of the terms that have the rows that they need; 0, with a gradient of 0, if
            there is none.

        Raises:
            ValueError: If there are fewer than two sensors, or keys or shapes disagree.
        """
        inputs = read_inputs(
            embeddings, present, weight=weight, place=place, over_ranks=self.training
        )
        ranks = inputs.ranks
        inputs = inputs._replace(
            z=ranks.whole(inputs.z, dim=1), there=ranks.gather(inputs.there, dim=1)
        )
        with torch.autocast(inputs.z.device.type, enabled=False):
            terms = list(self.terms(inputs))
            # An empty selection keeps the graph, and no value can spoil its sum
            return torch.stack(terms).mean() if terms else inputs.z[:, :0].sum()

    @abstractmethod
    def terms(self, inputs: Inputs) -> Iterator[Tensor]:
        """Losses ``()`` of which the mean is taken, of the rows of all ranks."""


class _Contrastive(_Objective):
    """An objective with a temperature."""

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        temperature_bounds: Sequence[float] | None = None,
        chunk: int = 512,
    ) -> None:
        """Make the loss.

        Args:
            temperature: Divisor of the similarities, at the start if it is learned.
            temperature_bounds: The least and the largest value of a learned temperature; it is
                fixed if they are not given.
            chunk: Rows that are compared at a time. Changes the memory, not the loss.

        Raises:
            ValueError: If the temperature is not positive, or not between its bounds; or if chunk
                is below 1.
        """
        super().__init__()
        if chunk < 1:
            raise ValueError(f'chunk must be at least 1 row, got {chunk}')
        self.init_args = {
            'temperature': temperature,
            'temperature_bounds': None if temperature_bounds is None else [*temperature_bounds],
            'chunk': chunk,
        }
        self._temperature = Temperature(temperature, bounds=temperature_bounds)
        self.chunk = chunk

    @property
    def temperature(self) -> float:
        """Divisor of the similarities, as it is now."""
        return self._temperature.value

    def both_ways(self, a: Tensor, logits: Logits) -> Tensor:
        """Mean cross-entropy of rows among keys and of keys among rows; row i belongs to key i."""
        to_keys, right, to_rows = self._compare(a, logits)
        return (to_keys + to_rows - 2 * right).mean() / 2

    def one_way(self, a: Tensor, logits: Logits) -> Tensor:
        """Mean cross-entropy of rows among keys; row i belongs to key i."""
        to_keys, right, _ = self._compare(a, logits)
        return (to_keys - right).mean()

    def _compare(self, a: Tensor, logits: Logits) -> tuple[Tensor, Tensor, Tensor]:
        """Log-sums over keys, right logits and log-sums over rows, ``(n,)`` each, by chunks."""

        def block(rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            found = logits(rows, index)  # (c, n)
            right = found.gather(1, index[:, None]).squeeze(1)
            return found.logsumexp(dim=1), right, found.logsumexp(dim=0)

        index = torch.arange(len(a), device=a.device)
        pieces = list(zip(torch.split(a, self.chunk), torch.split(index, self.chunk)))
        if len(pieces) == 1:
            found = [block(*pieces[0])]
        else:  # so that the similarities of one chunk are held at a time
            found = [cast(Any, checkpoint)(block, *piece, use_reentrant=False) for piece in pieces]
        to_keys, right, to_rows = zip(*found)
        return torch.cat(to_keys), torch.cat(right), torch.stack(to_rows).logsumexp(dim=0)


class AllPairsInfoNCE(_Contrastive):
    """Symmetric InfoNCE of each pair of sensors, in the samples that both saw.

    The cost grows with the square of the number of sensors. The loss of a pair is that of CLIP
    (Radford et al. 2021, arXiv 2103.00020), summed over pairs as by CMC (Tian et al. 2019,
    arXiv 1906.05849).
    """

    def terms(self, inputs: Inputs) -> Iterator[Tensor]:
        """One term for each pair that shares two samples."""
        for a, b in combinations(range(len(inputs.z)), 2):
            yield from self.pair(inputs, a, b)

    def pair(self, inputs: Inputs, a: int, b: int) -> Iterator[Tensor]:
        """The term of a pair of sensors, if it shares two samples."""
        both = inputs.there[a] & inputs.there[b]
        if both.sum() < 2:
            return
        first, second = (F.normalize(inputs.z[m][both], dim=-1) for m in (a, b))
        scale = self._temperature.scale(first)
        yield self.both_ways(first, lambda rows, _: rows * scale @ second.T)


class AnchorInfoNCE(AllPairsInfoNCE):
    """Symmetric InfoNCE of one sensor with each other (ImageBind, Girdhar et al. 2023, arXiv 2305.05665).

    Others are bound to each other through the anchor alone, and nothing is learned where it is
    absent.
    """

    def __init__(
        self,
        anchor: str,
        *,
        temperature: float = 0.1,
        temperature_bounds: Sequence[float] | None = None,
        chunk: int = 512,
    ) -> None:
        """Make the loss.

        Args:
            anchor: The sensor that the others are compared with.
            temperature: Divisor of the cosines, at the start if it is learned.
            temperature_bounds: The least and the largest value of a learned temperature.
            chunk: Rows that are compared at a time. Changes the memory, not the loss.

        Raises:
            ValueError: If the temperature is not positive, or not between its bounds; or if chunk
                is below 1.
        """
        super().__init__(temperature, temperature_bounds=temperature_bounds, chunk=chunk)
        self.init_args = {'anchor': anchor, **self.init_args}
        self.anchor = anchor

    def terms(self, inputs: Inputs) -> Iterator[Tensor]:
        """One term for each sensor that shares two samples with the anchor."""
        anchor = _find(self.anchor, inputs.names)
        for other in range(len(inputs.z)):
            if other != anchor:
                yield from self.pair(inputs, anchor, other)


class GramVolume(AnchorInfoNCE):
    """Contrast by the volume that the sensors of a sample span (GRAM, Cicchetti et al. 2024, arXiv 2412.11959).

    The volume is the root of the determinant of the cosines: small where all vectors point the same
    way, up to sign. The anchor of a sample must find the others of its sample among those of all,
    and they it. A sensor that is absent leaves the volume of the others as it is. The paper's
    second loss, a classifier of matching samples, is left out.
    """

    def terms(self, inputs: Inputs) -> Iterator[Tensor]:
        """One term, of the samples that the anchor and another saw."""
        anchor = _find(self.anchor, inputs.names)
        names = [m for m in range(len(inputs.z)) if m != anchor]
        rows = inputs.there[anchor] & inputs.there[names].any(dim=0)
        if rows.sum() < 2:
            return
        first = F.normalize(inputs.z[anchor][rows], dim=-1)  # (n, D)
        others = F.normalize(inputs.z[names][:, rows], dim=-1).transpose(0, 1)  # (n, M - 1, D)
        absent = ~inputs.there[names][:, rows].T
        base, span = _volume(others, absent)
        scale = self._temperature.scale(first)

        def logits(a: Tensor, _: Tensor) -> Tensor:
            inside = sum((a @ axis.T).square() for axis in span.unbind(dim=1))  # (c, n)
            # The root has no slope at 0
            height = (1 - cast(Tensor, inside)).clamp(min=1e-7).sqrt()
            return -scale * base * height

        yield self.both_ways(first, logits)


class Symile(_Contrastive):
    """Contrast by the sum of the products of all sensors' features (Saporta et al. 2024, arXiv 2411.01053).

    Each sensor must find the others of its sample. A wrong choice has each other sensor from
    another sample: the paper draws them at random, here each is moved along the batch by its own
    step, so that the loss is a function of its arguments. Only samples that all sensors saw take
    part, and products of many features are small: learn the temperature.
    """

    def terms(self, inputs: Inputs) -> Iterator[Tensor]:
        """One term for each sensor, if two samples are complete."""
        complete = inputs.there.all(dim=0)
        n = int(complete.sum())
        if n < 2:
            return
        z = F.normalize(inputs.z[:, complete], dim=-1)  # (M, n, D)
        scale = self._temperature.scale(z)
        step = max(1, n // max(1, len(z) - 1))
        for m in range(len(z)):
            others = torch.cat([z[:m], z[m + 1 :]])  # (M - 1, n, D)
            moved = [x.roll(i * step, dims=0) for i, x in enumerate(others)]
            wrong = torch.stack(moved).prod(dim=0)  # (n, D)
            right = others.prod(dim=0)

            def logits(a: Tensor, index: Tensor, w: Tensor = wrong, r: Tensor = right) -> Tensor:
                own = (a * r[index]).sum(dim=1, keepdim=True)
                return scale * (a @ w.T).scatter(1, index[:, None], own)

            yield self.one_way(z[m], logits)


class CrossSensorVICReg(_Objective):
    """Agreement of pairs without negatives (VICReg, Bardes et al. 2021, arXiv 2105.04906).

    Pairs of sensors agree on each sample, while each feature of a sensor keeps its variance over
    the batch and has no covariance with another. The last ``private`` features need not agree: as
    those that DeCUR (Wang et al. 2023, arXiv 2309.05300) calls unique, their correlations across
    sensors go to 0. DeCUR's agreement of two views of one sensor is left out, as a batch has one.
    For two sensors, without private features, the loss is that of VICReg with a mean over features
    in its agreement too.
    """

    def __init__(
        self,
        *,
        private: int = 0,
        agreement: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        decorrelation: float = 1.0,
    ) -> None:
        """Make the loss.

        Args:
            private: Features, the last ones, that a sensor keeps to itself.
            agreement: Weight of the squared difference of the other features.
            variance: Weight of what a feature's standard deviation lacks to 1.
            covariance: Weight of the squared covariances of features.
            decorrelation: Weight of the squared correlations of private features across sensors.

        Raises:
            ValueError: If private or a weight is negative.
        """
        super().__init__()
        self.init_args = {
            'private': private,
            'agreement': agreement,
            'variance': variance,
            'covariance': covariance,
            'decorrelation': decorrelation,
        }
        for name, value in self.init_args.items():
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f'{name} must be at least 0, got {value}')
        self.private = private

    def terms(self, inputs: Inputs) -> Iterator[Tensor]:
        """One term: the mean over pairs, of what both do together and each by itself.

        Raises:
            ValueError: If there are no more features than private ones.
        """
        width = inputs.z.shape[-1]
        if self.private >= width:
            raise ValueError(f'private={self.private} leaves none of D={width} features to agree')
        shared = width - self.private
        alone, pairs = [], []
        for a, b in combinations(range(len(inputs.z)), 2):
            both = inputs.there[a] & inputs.there[b]
            if both.sum() < 2:
                continue
            x, y = inputs.z[a][both], inputs.z[b][both]  # (n, D)
            term = self.init_args['agreement'] * F.mse_loss(x[:, :shared], y[:, :shared])
            if self.private:
                term = term + self.init_args['decorrelation'] * _correlation(
                    x[:, shared:], y[:, shared:]
                )
            pairs.append(term)
        if not pairs:
            return
        # Samples that no other sensor saw take no part here either
        together = inputs.there & (inputs.there.sum(dim=0) > 1)
        for rows, here in zip(inputs.z, together):
            if here.sum() >= 2:
                alone.append(self._spread(rows[here]))
        yield torch.stack(pairs).mean() + 2 * torch.stack(alone).mean()

    def _spread(self, x: Tensor) -> Tensor:
        """What the features ``(n, D)`` of a sensor lack in variance, and have in covariance."""
        x = x - x.mean(dim=0)
        covariance = x.T @ x / (len(x) - 1)  # (D, D)
        variance = covariance.diagonal()
        lack = F.relu(1 - (variance + 1e-4).sqrt()).mean()
        shared = (covariance.square().sum() - variance.square().sum()) / x.shape[1]
        return self.init_args['variance'] * lack + self.init_args['covariance'] * shared


def _find(anchor: str, names: Sequence[str]) -> int:
    """Number of the anchor.

    Raises:
        ValueError: If no sensor has its name.
    """
    if anchor not in names:
        raise ValueError(f'anchor={anchor!r} is none of the sensors {list(names)} of the batch')
    return list(names).index(anchor)


def _volume(others: Tensor, absent: Tensor) -> tuple[Tensor, Tensor]:
    """Volume ``(n,)`` that vectors span, and an orthonormal basis ``(n, M - 1, D)`` of their span.

    Args:
        others: ``(n, M - 1, D)`` unit vectors; zero where absent.
        absent: ``(n, M - 1)`` bool.
    """
    gram = others @ others.mT + torch.diag_embed(absent.to(others.dtype))
    # Vectors of one direction span nothing, which has no root
    ridge = 10 * torch.finfo(others.dtype).eps * torch.eye(gram.shape[-1], device=gram.device)
    root = torch.linalg.cholesky(gram + ridge.to(gram.dtype))
    span = torch.linalg.solve_triangular(root, others, upper=False)
    return root.diagonal(dim1=1, dim2=2).prod(dim=1), span


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    """Mean square of the correlations of features ``(n, d)`` of two sensors."""
    x, y = ((v - v.mean(dim=0)) / (v.var(dim=0, correction=0) + 1e-6).sqrt() for v in (x, y))
    return (x.T @ y / len(x)).square().mean()
