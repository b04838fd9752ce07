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
