# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What the objectives are called with: embeddings of several sensors, some of them absent.

Letters as in :mod:`torchgeo_anysensor.types`, and ``M`` sensors.
"""

from collections.abc import Mapping
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from .gather import Ranks, meet


class Inputs(NamedTuple):
    """Embeddings of the sensors side by side."""

    names: tuple[str, ...]  #: the sensors; the same on all ranks, in the same order
    z: Tensor  #: ``(M, B, D)``, float32 or float64; zero where absent
    there: Tensor  #: ``(M, B)`` bool
    weight: Tensor | None  #: ``(M, B)``; zero where absent
    place: Tensor | None  #: ``(B, 2)`` or ``(B, 3)`` metres
    ranks: Ranks  #: where the other rows of the batch are


def read_inputs(
    embeddings: Mapping[str, Tensor],
    present: Mapping[str, Tensor] | None,
    *,
    weight: Mapping[str, Tensor] | None = None,
    place: Tensor | None = None,
    over_ranks: bool = False,
) -> Inputs:
    """Check what an objective was given, and stack it.

    Args:
        embeddings: ``(B, D)`` for each sensor; anything, NaN too, in rows that are absent.
        present: ``(B,)`` bool for each sensor, or None if all are there.
        weight: ``(B,)`` for each sensor, at least 0.
        place: ``(B, 2)`` or ``(B, 3)`` coordinates in metres.
        over_ranks: Whether the batch is spread over the ranks, which may have different sensors.

    Raises:
        ValueError: If there are fewer than two sensors, keys or shapes disagree, or a weight is
            negative or not finite.
    """
    heard, rank = [(list(embeddings), _shape(embeddings))], 0
    if over_ranks:
        heard, rank = meet(heard[0])
    names = tuple(dict.fromkeys(name for sensors, _ in heard for name in sensors))
    _check_embeddings(embeddings, names)
    if len({width for _, (_, width) in heard}) > 1:
        widths = [width for _, (_, width) in heard]
        raise ValueError(f'embeddings must be as long on all ranks, got D = {widths}')
    batch, width = _shape(embeddings)
    _check_rows('present', present, embeddings)
    _check_rows('weight', weight, embeddings)
    if place is not None and (place.ndim != 2 or place.shape not in ((batch, 2), (batch, 3))):
        raise ValueError(
            f'place must be ({batch}, 2) or ({batch}, 3) metres, got {tuple(place.shape)}'
        )
    first = next(iter(embeddings.values()))
    dtype = reduce(torch.promote_types, (x.dtype for x in embeddings.values()), torch.float32)
    nowhere = torch.zeros(batch, dtype=torch.bool, device=first.device)
    nothing = torch.zeros(batch, width, dtype=dtype, device=first.device)
    there = torch.stack(
        [
            (~nowhere if present is None else present[name].bool())
            if name in embeddings
            else nowhere
            for name in names
        ]
    )
    z = torch.stack(
        [embeddings[name].to(dtype) if name in embeddings else nothing for name in names]
    )
    return Inputs(
        names=names,
        z=torch.where(there[..., None], z, 0.0),
        there=there,
        weight=_weights(weight, names, there, dtype),
        place=place,
        ranks=Ranks(tuple(rows for _, (rows, _) in heard), rank),
    )


def _shape(embeddings: Mapping[str, Tensor]) -> tuple[int, int]:
    """Rows and length of the first sensor's embeddings; 0 of what is not there."""
    sizes = (*next((x.shape for x in embeddings.values()), ()), 0, 0)
    return int(sizes[0]), int(sizes[1])


def _check_embeddings(embeddings: Mapping[str, Tensor], names: tuple[str, ...]) -> None:
    """Raise if there are too few sensors, or their embeddings differ in shape."""
    if len(names) < 2 or not embeddings:
        raise ValueError(f'need the embeddings of at least two sensors, got {sorted(embeddings)}')
    shapes = {name: tuple(x.shape) for name, x in embeddings.items()}
    if len(set(shapes.values())) > 1 or len(next(iter(shapes.values()))) != 2:
        raise ValueError(f'embeddings must all be (B, D), the same for each sensor, got {shapes}')


def _check_rows(
    title: str, rows: Mapping[str, Tensor] | None, embeddings: Mapping[str, Tensor]
) -> None:
    """Raise if there is not one value for each row of each sensor."""
    if rows is None:
        return
    if rows.keys() != embeddings.keys():
        raise ValueError(
            f'{title} must name the sensors of embeddings, {sorted(embeddings)}, got {sorted(rows)}'
        )
    batch, _ = _shape(embeddings)
    wrong = {name: tuple(x.shape) for name, x in rows.items() if x.shape != (batch,)}
    if wrong:
        raise ValueError(f'{title} must be ({batch},) for each sensor, got {wrong}')


def _weights(
    weight: Mapping[str, Tensor] | None, names: tuple[str, ...], there: Tensor, dtype: torch.dtype
) -> Tensor | None:
    """Weights ``(M, B)`` of what is there.

    Raises:
        ValueError: If one is negative or not finite.
    """
    if weight is None:
        return None
    nothing = torch.zeros(there.shape[1], dtype=dtype, device=there.device)
    found = torch.stack([weight[name].to(dtype) if name in weight else nothing for name in names])
    found = torch.where(there, found, 0.0)
    wrong = ~(torch.isfinite(found) & (found >= 0))
    if wrong.any():
        sensors = [name for name, row in zip(names, wrong) if row.any()]
        raise ValueError(f'weight must be finite and at least 0, but not so that of {sensors}')
    return found
