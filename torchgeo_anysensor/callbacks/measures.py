# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Numbers that say how good vectors are, without training anything on them.

``n`` vectors of ``D`` features each.
"""

import math
from collections.abc import Mapping
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses import Retrieval, retrieval_accuracy

#: Singular values below this share of the largest possible one are what rounding left.
_ROUNDING = 1e-6

#: Queries that are compared at a time.
_CHUNK = 1024


def pairwise_retrieval(
    embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]
) -> dict[tuple[str, str], Retrieval]:
    """Measure how often two sensors find each other's vector of the same sample.

    Args:
        embeddings: ``(n, D)`` for each sensor; anything in rows that are absent.
        present: ``(n,)`` bool for each sensor, the samples that it saw.

    Returns:
        For each pair that shares a sample: top-1 accuracy by cosine, the mean of both ways, and
        what guessing reaches. The candidates are the samples that both saw.
    """
    return {
        (a, b): retrieval_accuracy(
            {a: embeddings[a], b: embeddings[b]}, {a: present[a], b: present[b]}
        )
        for a, b in combinations(embeddings, 2)
        if bool((present[a] & present[b]).any())
    }


def alignment(a: Tensor, b: Tensor) -> Tensor:
    """Mean square distance of the unit vectors of two sensors at the same places.

    Wang and Isola 2020, arXiv 2005.10242, with their exponent of 2.

    Args:
        a: ``(n, D)``, normalised here.
        b: ``(n, D)``; row i shows what row i of *a* shows.

    Returns:
        ``()``, from 0, where they are the same, to 4; NaN of no vector.
    """
    return (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(dim=1).mean()


def uniformity(x: Tensor) -> Tensor:
    """Logarithm of the mean Gaussian potential of all pairs of unit vectors.

    Wang and Isola 2020, arXiv 2005.10242, with their ``t`` of 2.

    Args:
        x: ``(n, D)``, normalised here.

    Returns:
        ``()``: 0 if all are the same, near -4 if they lie evenly on a sphere of many dimensions;
        NaN of fewer than two vectors.
    """
    return torch.pdist(F.normalize(x, dim=1)).square().mul(-2).exp().mean().log()


def spread_of_features(x: Tensor) -> Tensor:
    """Standard deviation of each feature of the unit vectors, times the square root of ``D``.

    Chen and He 2021, arXiv 2011.10566, figure 2.

    Args:
        x: ``(n, D)``, normalised here.

    Returns:
        ``(D,)``: about 1 if the vectors lie evenly on the sphere, 0 if all are the same.
    """
    return F.normalize(x, dim=1).std(dim=0, correction=0) * math.sqrt(x.shape[1])


def effective_rank(x: Tensor) -> Tensor:
    """Number of directions in which vectors vary: the exponential of an entropy.

    It is that of the singular values of the centred vectors as shares of their sum; Roy and
    Vetterli 2007, The effective rank.

    Args:
        x: ``(n, D)``.

    Returns:
        ``()``: ``D`` if all directions vary alike, 1 if a single one does, 0 if all vectors are the
        same; NaN if a value is not finite.
    """
    if not bool(x.isfinite().all()):
        return x.new_full((), math.nan)
    values = torch.linalg.svdvals(x - x.mean(dim=0))
    values = values * (values > _ROUNDING * x.norm())
    shares = values / values.sum().clamp(min=torch.finfo(x.dtype).tiny)
    return torch.where(shares.sum() > 0, torch.special.entr(shares).sum().exp(), 0.0)


def knn_predict(
    query: Tensor, bank: Tensor, labels: Tensor, *, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Classify vectors by those that are nearest to them.

    The *k* nearest by cosine vote, each with the weight ``exp(cosine / temperature)``; Wu et al.
    2018, arXiv 1805.01978.

    Args:
        query: ``(n, D)``.
        bank: ``(m, D)``.
        labels: ``(m,)`` int64, classes of the bank.
        k: Neighbours that vote; all if the bank has fewer.
        temperature: Divisor of the cosines.

    Returns:
        ``(n,)`` classes.

    Raises:
        ValueError: If the bank is empty.
    """
    if not len(bank):
        raise ValueError('the bank has no vector to compare with')
    classes, positions = torch.unique(labels, return_inverse=True)
    keys = F.normalize(bank, dim=1)
    found = []
    for rows in torch.split(F.normalize(query, dim=1), _CHUNK):
        cosine, nearest = (rows @ keys.T).topk(min(k, len(bank)), dim=1)  # (c, k)
        weight = ((cosine - 1) / temperature).exp()
        votes = weight.new_zeros(len(rows), len(classes))
        found.append(votes.scatter_add_(1, positions[nearest], weight).argmax(dim=1))
    return classes[torch.cat(found)]


def principal_components(x: Tensor, *, count: int = 3) -> tuple[Tensor, Tensor]:
    """Find the directions in which vectors vary most.

    Args:
        x: ``(n, D)``.
        count: How many, at most ``D``.

    Returns:
        Their mean ``(D,)``, and the directions ``(D, count)``, the strongest first; the largest
        number of each is positive, so that colours do not flip from epoch to epoch by chance.
    """
    mean = x.mean(dim=0)
    _, directions = torch.linalg.eigh((x - mean).T @ (x - mean))
    chosen = directions.flip(1)[:, :count]
    largest = chosen.gather(0, chosen.abs().argmax(dim=0, keepdim=True))
    return mean, chosen * largest.sign()
