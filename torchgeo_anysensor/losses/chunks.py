# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""A contrast of all rows with all keys that never holds all of their similarities.

Letters as in :mod:`torchgeo_anysensor.types`, and ``M`` sensors, ``R`` rows of all ranks, ``c`` rows
of a chunk.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .gather import Ranks

#: Similarity of what is not compared: its exponential is 0, and differences of two are finite.
_NEVER = -1e30


class Rule(NamedTuple):
    """Which pairs are compared, and how."""

    ok: Tensor  #: ``(M, B)`` bool: the row takes part, as a query and as a key
    ranks: Ranks
    place: Tensor | None = None  #: ``(B, 2)`` or ``(B, 3)`` metres
    min_distance: float = 0.0  #: metres; nearer ones are no negatives
    max_similarity: float | None = None  #: cosine of two keys; more alike ones are no negatives
    sigmoid: bool = False  #: each pair by itself, instead of a softmax over the keys
    chunk: int = 512  #: rows that are compared at a time


class _Keys(NamedTuple):
    """What the rows are compared with, and how."""

    z: Tensor  # (M, R, D)
    ok: Tensor  # (M, R)
    floor: Tensor  # (M, R): the bias, or never for what is no key
    scale: Tensor  # ()
    place: Tensor | None  # (R, 2) or (R, 3), about its mean
    sigmoid: bool


class _Sums(NamedTuple):
    """Sums over rows, and their gradients."""

    loss: Tensor  # (M,)
    used: Tensor  # (M,): how many rows
    scale: Tensor  # (M,)
    bias: Tensor  # (M,)


def contrast(
    query: Tensor, key: Tensor, scale: Tensor, bias: Tensor | None, rule: Rule
) -> tuple[Tensor, Tensor]:
    """Compare each row with the keys of all rows, among which its own is the right one.

    The gradient is computed on the way forward, chunk by chunk, so that no similarity is computed
    twice and memory grows linearly with the rows. On ranks, each compares its own rows with the
    keys of all; the sums are those of all ranks, and the gradients of the own rows are those of
    the sums, multiplied by the number of ranks, as DistributedDataParallel averages over them.
    Nothing is sent on the way back.

    Args:
        query: ``(M, B, D)`` unit vectors.
        key: ``(M, B, D)`` unit vectors.
        scale: ``()``, multiplies the cosines.
        bias: ``()``, is added to them; 0 if not given.
        rule: Which pairs are compared, and how.

    Returns:
        The sum of the losses of the rows, and how many rows had a right key and a wrong one,
        ``(M,)`` each.
    """
    needed = torch.is_grad_enabled()  # and not what requires one: all ranks must agree
    bias = torch.zeros_like(scale) if bias is None else bias
    loss, count = _Contrast.apply(query, key, scale, bias, rule, needed)
    return loss, count


class _Contrast(torch.autograd.Function):
    """See :func:`contrast`."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, scale: Tensor, bias: Tensor, rule: Rule, needed: bool
    ) -> tuple[Tensor, Tensor]:
        """Sums and, if they are needed, gradients."""
        keys = _gather_keys(key, scale, bias, rule)
        own = rule.ranks.own
        d_query, d_key = (torch.zeros_like(x) if needed else None for x in (query, keys.z))
        sums = query.new_zeros(len(query), 4)
        for start in range(0, query.shape[1], rule.chunk):
            rows = slice(start, start + rule.chunk)
            index = torch.arange(own.start, own.stop, device=query.device)[rows]
            near = _near(keys.place, index, rule.min_distance)
            for m in range(len(query)):
                left_out = _left_out(near, keys.z[m], index, rule.max_similarity)
                residual, part = _block(query[m, rows], keys, m, index, left_out)
                if d_query is not None and d_key is not None:
                    q = query[m, rows] * scale
                    d_query[m, rows] = scale * (residual @ keys.z[m])
                    d_key[m] += residual.T @ q
                    slope = (d_query[m, rows] * query[m, rows]).sum() / scale
                    part = part._replace(scale=slope, bias=residual.sum())
                sums[m] += torch.stack(part)
                del residual, left_out
        total = _Sums(*rule.ranks.sum(sums).unbind(1))
        if d_query is not None and d_key is not None:
            d_key = rule.ranks.sum(d_key)[:, own]
            ctx.save_for_backward(d_query, d_key, total.scale, total.bias)
        ctx.ranks = len(rule.ranks.sizes)
        ctx.mark_non_differentiable(total.used)
        return total.loss, total.used

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None]:
        """Scale what was found on the way forward."""
        d_query, d_key, d_scale, d_bias = ctx.saved_tensors
        each = grads[0]  # (M,)
        rows = ctx.ranks * each[:, None, None]
        return rows * d_query, rows * d_key, each @ d_scale, each @ d_bias, None, None


def _gather_keys(key: Tensor, scale: Tensor, bias: Tensor, rule: Rule) -> _Keys:
    """The keys of all ranks."""
    ok = rule.ranks.gather(rule.ok, dim=1)
    floor = torch.where(ok, bias, _NEVER)
    place = None
    if rule.min_distance > 0 and rule.place is not None:
        place = rule.ranks.gather(rule.place)
        # About the mean, single precision is fine enough
        place = (place - place.nanmean(dim=0)).to(key.dtype)
    z = rule.ranks.gather(key, dim=1)
    return _Keys(z, ok, floor, scale, place, rule.sigmoid)


def _near(place: Tensor | None, index: Tensor, min_distance: float) -> Tensor | None:
    """Which keys lie too near to some rows, ``(c, R)`` bool; nothing is near to NaN."""
    if place is None:
        return None
    away = torch.zeros((), dtype=place.dtype, device=place.device)
    for axis in place.unbind(dim=1):
        away = away + (axis[index, None] - axis).square()
    return away < min_distance**2


def _left_out(
    near: Tensor | None, keys: Tensor, index: Tensor, max_similarity: float | None
) -> Tensor | None:
    """Which keys are no negatives of some rows, ``(c, R)`` bool; the own key is never left out."""
    if max_similarity is not None:
        alike = keys[index] @ keys.T > max_similarity
        near = alike if near is None else near | alike
    if near is None:
        return None
    return near.scatter(1, index[:, None], value=False)


def _block(
    query: Tensor, keys: _Keys, m: int, index: Tensor, left_out: Tensor | None
) -> tuple[Tensor, _Sums]:
    """Losses of a chunk of rows of sensor *m*, and their gradient to the logits ``(c, R)``."""
    wrong = keys.ok[m].sum() - 1
    logits = torch.addmm(keys.floor[m], query * keys.scale, keys.z[m].T)  # (c, R)
    if left_out is not None:
        logits.masked_fill_(left_out, _NEVER)
        wrong = wrong - (left_out & keys.ok[m]).sum(dim=1)
    used = (keys.ok[m, index] & (wrong > 0)).to(query.dtype)  # (c,)
    right = logits.gather(1, index[:, None]).squeeze(1)
    if keys.sigmoid:
        losses = -F.logsigmoid(-logits).sum(dim=1) - right
        residual = logits.sigmoid_().mul_(used[:, None])
    else:
        top = logits.amax(dim=1)
        residual = logits.sub_(top[:, None]).exp_()
        total = residual.sum(dim=1)
        losses = top + total.log() - right
        residual.mul_((used / total)[:, None])
    residual.scatter_add_(1, index[:, None], -used[:, None])
    nothing = torch.zeros_like(keys.scale)
    return residual, _Sums((losses * used).sum(), used.sum(), nothing, nothing)
