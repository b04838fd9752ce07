# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Chunks change the memory, and neither the loss nor its gradient."""

import pytest
import torch
from slow_losses import draw, draw_weight, grads, with_grad
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from torchgeo_anysensor.losses import CrossSensorInfoNCE

MASKS = {'min_distance': 30.0, 'max_similarity': 0.5}


class Largest(TorchDispatchMode):
    """Remembers the most elements that a tensor had."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, torch.Tensor):
                self.most = max(self.most, x.untyped_storage().nbytes() // x.element_size())
        return out


@pytest.mark.parametrize('chunk', [1, 5, 32, 33, 100])
@pytest.mark.parametrize('options', [{}, {'sigmoid': True}, MASKS])
def test_chunks_change_nothing(chunk, options):
    embeddings, present = draw(3, batch=33, dtype=torch.float64)
    weight, place = draw_weight(present), 100 * torch.rand(33, 2)
    found = []
    for rows in (chunk, 10_000):
        given = with_grad(embeddings)
        loss = CrossSensorInfoNCE(0.1, temperature_bounds=(0.01, 1), chunk=rows, **options).double()
        value = loss(given, present, weight=weight, place=place)
        (3 * value).backward()
        found.append([value, grads(given), {n: p.grad for n, p in loss.named_parameters()}])
    assert_close(*found)


@pytest.mark.parametrize('sigmoid', [False, True])
def test_gradient_is_the_slope_of_the_loss(sigmoid):
    embeddings, present = draw(3, batch=5, dim=4, dtype=torch.float64)
    loss = CrossSensorInfoNCE(0.5, chunk=2, sigmoid=sigmoid)

    def value(*rows):
        return loss(dict(zip(embeddings, rows)), present)

    given = [x.requires_grad_() for x in embeddings.values()]
    assert torch.autograd.gradcheck(value, given)


@pytest.mark.parametrize('options', [{}, {'sigmoid': True}, MASKS])
def test_memory_grows_linearly_with_the_batch(options):
    most = []
    for batch in (256, 512, 1024):
        embeddings, present = draw(3, batch=batch)
        place = torch.rand(batch, 2)
        loss = CrossSensorInfoNCE(chunk=64, **options)
        with Largest() as largest:
            loss(with_grad(embeddings), present, place=place).backward()
        most.append(largest.most)
        assert most[-1] <= 64 * batch
    assert most[1] <= 2 * most[0]
    assert most[2] <= 2 * most[1]


def test_without_a_gradient_the_loss_is_the_same():
    embeddings, present = draw(3)
    loss = CrossSensorInfoNCE(temperature_bounds=(0.01, 1))
    expected = loss(embeddings, present)
    with torch.no_grad():
        assert torch.equal(loss(embeddings, present), expected)
    assert expected.requires_grad
