# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Rows of a batch that is spread over ranks.

Ranks may hold batches of different sizes. Letters as in :mod:`torchgeo_anysensor.types`, and ``W``
ranks.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks(NamedTuple):
    """Who holds which rows; of a single rank nothing is ever sent."""

    sizes: tuple[int, ...]  #: rows of each rank
    rank: int = 0  #: the own one

    @property
    def own(self) -> slice:
        """The own rows among those of all ranks."""
        start = sum(self.sizes[: self.rank])
        return slice(start, start + self.sizes[self.rank])

    def gather(self, x: Tensor, *, dim: int = 0) -> Tensor:
        """Put the rows of all ranks one after the other, without a gradient.

        Args:
            x: The own rows, along *dim*; the other dimensions are the same on all ranks.
            dim: Dimension of the rows.
        """
        if len(self.sizes) == 1:
            return x
        rows = x.detach().movedim(dim, 0)
        if x.dtype == torch.bool:  # no backend is sure to send these
            rows = rows.to(torch.uint8)
        sent = rows.new_zeros(max(self.sizes), *rows.shape[1:])
        sent[: len(rows)] = rows
        received = [torch.empty_like(sent) for _ in self.sizes]
        dist.all_gather(received, sent)
        found = torch.cat([block[:size] for block, size in zip(received, self.sizes)])
        return found.to(x.dtype).movedim(0, dim)

    def sum(self, x: Tensor) -> Tensor:
        """Sum over ranks of a tensor that has the same shape on all, without a gradient."""
        if len(self.sizes) == 1:
            return x
        x = x.detach().contiguous().clone()
        dist.all_reduce(x)
        return x

    def whole(self, x: Tensor, *, dim: int = 0) -> Tensor:
        """Put the rows of all ranks one after the other, of which the own ones have a gradient.

        If every rank computes the same loss from all rows, then nobody need send a gradient: each
        has the exact one of its own rows. It is multiplied by ``W``, so that the mean over ranks,
        which DistributedDataParallel takes of the gradients of the parameters, is the gradient of
        one process with the whole batch.

        Args:
            x: The own rows, along *dim*.
            dim: Dimension of the rows.
        """
        if len(self.sizes) == 1:
            return x
        found = self.gather(x, dim=dim).movedim(dim, 0)
        own = _Grown.apply(x, float(len(self.sizes))).movedim(dim, 0)
        before, after = found[: self.own.start], found[self.own.stop :]
        return torch.cat([before, own, after]).movedim(0, dim)


class _Grown(torch.autograd.Function):
    """The same tensor, with a gradient that is larger by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        """Keep the factor."""
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Apply the factor."""
        return ctx.factor * grads[0], None


def meet(facts: Any) -> tuple[list[Any], int]:
    """Tell all ranks a few plain values.

    Args:
        facts: Of this rank.

    Returns:
        Those of all ranks, in order, and the own rank; of one process, its own.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [facts], 0
    heard: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(heard, facts)
    return heard, dist.get_rank()
