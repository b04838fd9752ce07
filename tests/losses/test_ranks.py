# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Two processes give the loss and the gradient of one with the whole batch."""

import math
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from slow_losses import draw, draw_weight, grads, with_grad
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from torchgeo_anysensor.losses import (
    AllPairsInfoNCE,
    AnchorInfoNCE,
    CrossSensorInfoNCE,
    CrossSensorVICReg,
    GramVolume,
    Symile,
)

#: Rows of the two ranks, of which the first has not seen the last sensor, nor the second the first.
SIZES = (5, 8)
LOSSES = {
    'softmax': lambda: CrossSensorInfoNCE(0.2, temperature_bounds=(0.01, 1), chunk=3),
    'sigmoid': lambda: CrossSensorInfoNCE(temperature_bounds=(0.01, 1), sigmoid=True, chunk=3),
    'masks': lambda: CrossSensorInfoNCE(min_distance=30.0, max_similarity=0.8, chunk=4),
}
OTHERS = {
    'pairs': lambda: AllPairsInfoNCE(0.2, chunk=4),
    'anchor': lambda: AnchorInfoNCE('s1'),
    'volume': lambda: GramVolume('s1'),
    'symile': lambda: Symile(0.02),
    'vicreg': lambda: CrossSensorVICReg(private=3),
}


class Model(nn.Module):
    """An encoder and a loss, of which DistributedDataParallel averages the gradients."""

    def __init__(self, loss):
        super().__init__()
        torch.manual_seed(1)
        self.encoder = nn.Linear(8, 6)
        self.loss = loss

    def forward(self, x, present, weight, place):
        encoded = {name: self.encoder(rows) for name, rows in x.items()}
        return self.loss(encoded, present, weight=weight, place=place)


def complete_batch():
    """A batch of which enough samples are complete, for the objectives that need them."""
    return draw(3, batch=sum(SIZES), absent=0.2, dtype=torch.float64)


def whole_batch():
    embeddings, present = draw(4, batch=sum(SIZES), absent=0.3, dtype=torch.float64)
    present['s3'][: SIZES[0]] = False
    present['s0'][SIZES[0] :] = False
    place = 100 * torch.rand(sum(SIZES), 2, generator=torch.Generator().manual_seed(0)).double()
    place[3] = math.nan
    return embeddings, present, draw_weight(present), place


def of_rank(batch, rank):
    """The rows of a rank, and only the sensors that it has."""
    rows = slice(0, SIZES[0]) if rank == 0 else slice(SIZES[0], None)
    missing = ('s3', 's0')[rank]
    *by_sensor, place = batch
    kept = [{n: x[rows].clone() for n, x in d.items() if n != missing} for d in by_sensor]
    return (*kept, place[rows])


def run(rank, folder, options):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder}/meet',
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    out = {}
    for name in options:
        embeddings, present, weight, place = of_rank(whole_batch(), rank)
        given = with_grad(embeddings)
        value = LOSSES[name]().double()(given, present, weight=weight, place=place)
        value.backward()
        model = DistributedDataParallel(Model(LOSSES[name]()).double())
        loss = model(embeddings, present, weight, place)
        loss.backward()
        parameters = {n: p.grad for n, p in model.module.named_parameters()}
        alone = LOSSES[name]().double().eval()(embeddings, present, weight=weight, place=place)
        out[name] = (value.detach(), grads(given), loss.detach(), parameters, alone.detach())
    rows = slice(0, SIZES[0]) if rank == 0 else slice(SIZES[0], None)
    for name, make in OTHERS.items():
        embeddings, present = ({n: x[rows] for n, x in d.items()} for d in complete_batch())
        given = with_grad(embeddings)
        value = make()(given, present)
        value.backward()
        out[name] = (value.detach(), grads(given))
    torch.save(out, f'{folder}/rank{rank}.pt')
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    mp.start_processes(run, (str(folder), list(LOSSES)), nprocs=2, start_method='fork')
    return [torch.load(folder / f'rank{rank}.pt', weights_only=True) for rank in range(2)]


@pytest.mark.parametrize('name', LOSSES)
def test_two_ranks_equal_one_process_with_the_whole_batch(two_ranks, name):
    embeddings, present, weight, place = whole_batch()
    given = with_grad(embeddings)
    expected = LOSSES[name]().double()(given, present, weight=weight, place=place)
    expected.backward()
    assert expected > 0
    for rank, found in enumerate(two_ranks):
        value, of_rows, *_ = found[name]
        assert_close(value, expected.detach())
        rows = slice(0, SIZES[0]) if rank == 0 else slice(SIZES[0], None)
        for sensor, grad in of_rows.items():
            assert_close(grad, 2 * given[sensor].grad[rows])  # of which the mean is taken


@pytest.mark.parametrize('name', LOSSES)
def test_parallel_training_takes_the_step_of_one_process(two_ranks, name):
    model = Model(LOSSES[name]()).double()
    expected = model(*whole_batch())
    expected.backward()
    for found in two_ranks:
        _, _, value, parameters, _ = found[name]
        assert_close(value, expected.detach())
        assert_close(parameters, {n: p.grad for n, p in model.named_parameters()})


def test_in_evaluation_each_rank_is_by_itself(two_ranks):
    for rank, found in enumerate(two_ranks):
        embeddings, present, weight, place = of_rank(whole_batch(), rank)
        loss = LOSSES['softmax']().double()(embeddings, present, weight=weight, place=place)
        assert_close(found['softmax'][-1], loss.detach())


@pytest.mark.parametrize('name', OTHERS)
def test_two_ranks_equal_one_process_for_the_other_objectives(two_ranks, name):
    embeddings, present = complete_batch()
    given = with_grad(embeddings)
    expected = OTHERS[name]()(given, present)
    expected.backward()
    assert expected > 0
    for sensor, x in given.items():
        both = torch.cat([found[name][1][sensor] for found in two_ranks])
        assert_close(both, 2 * x.grad)  # of which the mean is taken
    for found in two_ranks:
        assert_close(found[name][0], expected.detach())
