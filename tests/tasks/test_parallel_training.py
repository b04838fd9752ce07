# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Two processes of Lightning's strategies take the steps of one with the whole batch.

The ranks have batches of different sizes and sensors, and so encode in a different number of chunks.
"""

import socket

import pytest
import torch
from parallel_fit import STRATEGIES, GradientDescent, fit, fit_in_two_processes, whole_batch
from torch.testing import assert_close

from torchgeo_anysensor.models.pretrained import load_encoder


@pytest.fixture(scope='module')
def one_process(tmp_path_factory):
    trainer, metrics = fit(whole_batch(), tmp_path_factory.mktemp('one'), devices=1)
    return trainer.lightning_module.state_dict(), metrics


@pytest.fixture(scope='module')
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('two')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    fit_in_two_processes(folder, port)
    return folder


@pytest.mark.parametrize('name', STRATEGIES)
def test_parallel_training_takes_the_steps_of_one_process(one_process, two_processes, name):
    torch.manual_seed(1)
    expected, _ = one_process
    checkpoint = torch.load(two_processes / f'{name}.ckpt', weights_only=True)
    assert checkpoint['run']['task'] == 'GradientDescent'
    for key, value in checkpoint['state_dict'].items():
        if key.startswith('moments.'):  # but for the plain ones, they divide by what hardly varies
            far = 1e-3 if 'plain' in key else 2e-2
            same = expected[key].double()
            assert (value.double() - same).norm() <= far * same.norm()
        else:
            assert_close(value, expected[key], atol=2e-5, rtol=0)


@pytest.mark.parametrize('name', STRATEGIES)
def test_validation_sees_the_parameters_of_the_last_step(one_process, two_processes, name):
    _, expected = one_process
    for rank in range(2):
        found = torch.load(two_processes / f'{name}{rank}.pt', weights_only=True)
        assert found['val_loss'] == pytest.approx(expected['val_loss'], abs=1e-4)
        assert found['train_loss'] == pytest.approx(expected['train_loss'], abs=1e-4)


@pytest.mark.parametrize('name', STRATEGIES)
def test_ranks_have_the_same_moments(two_processes, name):
    """They are not sent from one rank to the others."""
    one, other = (
        torch.load(two_processes / f'{name}{rank}-moments.pt', weights_only=True)
        for rank in range(2)
    )
    assert int(one['tokens.updates']) == 1
    assert_close(one, other, atol=0, rtol=0)


@pytest.mark.parametrize('name', STRATEGIES)
def test_checkpoint_of_many_processes_loads_in_one(one_process, two_processes, name):
    expected, _ = one_process
    path = two_processes / f'{name}.ckpt'
    task = GradientDescent.load_from_checkpoint(path)
    assert task.state_dict().keys() == expected.keys()
    weights = torch.load(path, weights_only=True)['state_dict']
    for key, value in load_encoder(path, canonical=False).state_dict().items():
        assert torch.equal(value, weights[f'encoder.{key}'])
