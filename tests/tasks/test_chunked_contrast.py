# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""A contrast that is encoded in chunks, with all that a pretraining may hide and draw."""

import torch
from parallel_fit import whole_batch
from torch.testing import assert_close

from torchgeo_anysensor.losses import CrossSensorInfoNCE
from torchgeo_anysensor.models import AnySensorViT
from torchgeo_anysensor.tasks import CrossSensorContrastive


def values_and_gradients(task):
    task.zero_grad()
    torch.manual_seed(2)  # of what is hidden, and of the tokens that are compared
    values = task.losses(whole_batch())
    values['loss'].backward()
    return (
        {name: x.detach() for name, x in values.items()},
        {name: p.grad.clone() for name, p in task.named_parameters()},
    )


def test_chunks_change_neither_losses_nor_gradients(awake):
    torch.manual_seed(1)
    task = CrossSensorContrastive(
        awake(AnySensorViT(32, depth=2, num_heads=2, band_dim=16)),
        loss=CrossSensorInfoNCE(0.2, temperature_bounds=(0.01, 1)),
        tokens_per_patch=4,
        reconstruction=1.0,
        private_dim=8,
    )
    losses, gradients = values_and_gradients(task)
    assert {'reconstruction_loss', 'decorrelation_loss'} <= losses.keys()
    assert all(g.any() for g in gradients.values())
    calls = []
    task.encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    task.encoder.batch_chunk = 2
    found, chunked = values_and_gradients(task)
    assert len(calls) == 2 * (4 + 4 + 3)  # forward and back; the last sensor saw five samples
    assert_close(found, losses, atol=1e-5, rtol=1e-5)
    assert_close(chunked, gradients, atol=1e-5, rtol=1e-4)
