# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The objectives as plain loops over samples, from their definitions."""

import torch
import torch.nn.functional as F


def unit(x):
    return x / x.norm()


def draw(sensors, batch=7, dim=8, absent=0.4, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    embeddings, present = {}, {}
    for m in range(sensors):
        embeddings[f's{m}'] = 3 * torch.randn(batch, dim, generator=generator, dtype=dtype)
        present[f's{m}'] = torch.rand(batch, generator=generator) >= absent
    return embeddings, present


def draw_weight(present, seed=0, dtype=torch.float32):
    """Confidences over many orders, some of them 0."""
    generator = torch.Generator().manual_seed(seed)
    weight = {}
    for name, here in present.items():
        x = 10 ** (3 * torch.rand(len(here), generator=generator, dtype=dtype))
        weight[name] = torch.where(torch.rand(len(here), generator=generator) < 0.2, 0.0, x)
    return weight


def with_grad(embeddings):
    return {name: x.clone().requires_grad_() for name, x in embeddings.items()}


def grads(embeddings):
    """Gradients; zeros where there is no path."""
    return {n: torch.zeros_like(x) if x.grad is None else x.grad for n, x in embeddings.items()}


def target(embeddings, present, weight, name, j):
    """What a sensor must find in sample j: the weighted mean of the others; None if there is none."""
    if not present[name][j]:
        return None
    total, mass = 0, 0
    for other in embeddings:
        if other != name and present[other][j]:
            w = 1.0 if weight is None else weight[other][j]
            total, mass = total + w * unit(embeddings[other][j]), mass + w
    return unit(total / mass) if mass > 0 else None


def is_negative(targets, place, i, j, min_distance, max_similarity):
    if targets[j] is None:
        return False
    if min_distance and (place[i] - place[j]).norm() < min_distance:
        return False
    return max_similarity is None or not targets[i] @ targets[j] > max_similarity


def slow_infonce(
    embeddings,
    present,
    *,
    temperature=0.1,
    weight=None,
    place=None,
    min_distance=0.0,
    max_similarity=None,
    bias=None,
):
    """The loss of CrossSensorInfoNCE; with a bias, its sigmoid form."""
    sensors = []
    for name in embeddings:
        batch = range(len(present[name]))
        targets = [target(embeddings, present, weight, name, j) for j in batch]
        samples = []
        for i in batch:
            if targets[i] is None:
                continue
            z = unit(embeddings[name][i])
            right = z @ targets[i] / temperature
            wrong = [
                z @ targets[j] / temperature
                for j in batch
                if j != i and is_negative(targets, place, i, j, min_distance, max_similarity)
            ]
            if not wrong:
                continue
            if bias is None:
                samples.append(-right + torch.logsumexp(torch.stack([right, *wrong]), 0))
            else:
                samples.append(
                    -F.logsigmoid(right + bias)
                    - sum(F.logsigmoid(-(logit + bias)) for logit in wrong)
                )
        if samples:
            sensors.append(sum(samples) / len(samples))
    if not sensors:
        return sum(0.0 * x[:0].sum() for x in embeddings.values())
    return sum(sensors) / len(sensors)


def choose(logits, right):
    return torch.logsumexp(torch.stack(logits), 0) - logits[right]


def slow_pair(a, b, rows, temperature):
    """CLIP: each of two sensors finds the other's sample among the shared ones."""
    logits = [[unit(a[i]) @ unit(b[j]) / temperature for j in rows] for i in rows]
    ways = [*logits, *([row[k] for row in logits] for k in range(len(rows)))]
    return sum(choose(way, k % len(rows)) for k, way in enumerate(ways)) / len(ways)


def mean_or_zero(terms, embeddings):
    if not terms:
        return sum(0.0 * x[:0].sum() for x in embeddings.values())
    return sum(terms) / len(terms)


def slow_pairs(embeddings, present, temperature, pairs):
    terms = []
    for a, b in pairs:
        rows = [i for i in range(len(present[a])) if present[a][i] and present[b][i]]
        if len(rows) > 1:
            terms.append(slow_pair(embeddings[a], embeddings[b], rows, temperature))
    return mean_or_zero(terms, embeddings)


def volume(vectors):
    stack = torch.stack([unit(v) for v in vectors])
    return torch.linalg.det(stack @ stack.T).clamp(min=1e-20).sqrt()


def slow_gram(embeddings, present, temperature, anchor):
    def others(j):
        return [embeddings[o][j] for o in embeddings if o != anchor and present[o][j]]

    rows = [j for j in range(len(present[anchor])) if present[anchor][j] and others(j)]
    if len(rows) < 2:
        return mean_or_zero([], embeddings)
    logits = [
        [-volume([embeddings[anchor][i], *others(j)]) / temperature for j in rows] for i in rows
    ]
    ways = [*logits, *([row[k] for row in logits] for k in range(len(rows)))]
    return sum(choose(way, k % len(rows)) for k, way in enumerate(ways)) / len(ways)


def slow_symile(embeddings, present, temperature):
    names = list(embeddings)
    batch = range(len(present[names[0]]))
    rows = [i for i in batch if all(present[name][i] for name in names)]
    n = len(rows)
    if n < 2:
        return mean_or_zero([], embeddings)
    step = max(1, n // (len(names) - 1))
    terms = []
    for name in names:
        others = [o for o in names if o != name]
        for i in range(n):
            logits = []
            for j in range(n):
                product = unit(embeddings[name][rows[i]])
                for k, other in enumerate(others):
                    moved = j if i == j else (j - k * step) % n
                    product = product * unit(embeddings[other][rows[moved]])
                logits.append(product.sum() / temperature)
            terms.append(choose(logits, i))
    return mean_or_zero(terms, embeddings)


def slow_vicreg(embeddings, present, private):
    """25 (agreement + lack of variance) + covariance, and private correlations."""
    names, pairs, alone = list(embeddings), [], []
    batch = range(len(present[names[0]]))
    width = embeddings[names[0]].shape[1]
    shared = width - private
    for m, a in enumerate(names):
        for b in names[m + 1 :]:
            rows = [i for i in batch if present[a][i] and present[b][i]]
            if len(rows) < 2:
                continue
            x, y = embeddings[a][rows], embeddings[b][rows]
            term = 25 * ((x - y)[:, :shared] ** 2).mean()
            for d in range(shared, width):
                for e in range(shared, width):
                    r = torch.corrcoef(torch.stack([x[:, d], y[:, e]]))[0, 1]
                    term = term + r**2 / private**2
            pairs.append(term)
    if not pairs:
        return mean_or_zero([], embeddings)
    for name in names:
        rows = [
            i for i in batch if present[name][i] and any(present[o][i] for o in names if o != name)
        ]
        if len(rows) > 1:
            x = embeddings[name][rows]
            lack = sum((1 - (x[:, d].var() + 1e-4).sqrt()).clamp(min=0) for d in range(width))
            c = torch.cov(x.T)
            alone.append((25 * lack + (c**2).sum() - (c.diagonal() ** 2).sum()) / width)
    return sum(pairs) / len(pairs) + 2 * sum(alone) / len(alone)
