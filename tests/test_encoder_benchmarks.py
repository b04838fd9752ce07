# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What encoders cost, and how they carry over: the benchmarks run, in miniature."""

import argparse
import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from unittest.mock import Mock

import pytest
import torch

OPTIONS = {
    'device': 'cpu',
    'dtype': 'float32',
    'batch': 1,
    'repeats': 1,
    'seconds': 1.0,
    'threads': 1,
}
OPTIONS |= {'compile': None, 'largest': 0}
INPUT = '12 bands, 224 x 224'


def test_costs_of_an_encoder(benchmark):
    row = benchmark('encoders').measure('AnySensorViT tiny', INPUT, argparse.Namespace(**OPTIONS))
    assert row[:2] == ['AnySensorViT tiny', INPUT]
    parameters, tokens, gflop, ratio = map(float, row[2:6])
    assert tokens == 14 * 14
    assert 5 < parameters < 7
    assert gflop == pytest.approx(3.0, abs=0.3)
    assert 1 < ratio <= 1.15
    *rates, batch, forward, back = map(float, row[6:])
    assert min(rates) > 0
    assert batch == 1
    assert 4 * 12 * 224**2 / 2**20 < forward < back  # the sorted pixels, at least


def test_costs_as_on_a_gpu(benchmark, monkeypatch):
    """In bfloat16, compiled without a break."""
    encoders = benchmark('encoders')
    small = encoders.Entry(lambda: encoders.AnySensorViT(32, depth=1, num_heads=2), 32, 2)
    monkeypatch.setitem(encoders.ENCODERS, 'small', small)
    monkeypatch.setitem(encoders.INPUTS, 'few', ([(10, 4)], 320, 160))
    monkeypatch.setattr(encoders, 'matrix_rate', lambda device, dtype: 1e9)  # slow on many CPUs
    shallow = partial(encoders.timm.models.VisionTransformer, depth=1)
    monkeypatch.setattr(encoders.timm.models, 'VisionTransformer', shallow)
    options = OPTIONS | {'dtype': 'bfloat16', 'compile': 'eager'}
    row = encoders.measure('small', 'few', argparse.Namespace(**options))
    torch.compiler.reset()
    assert min(map(float, row[6:-2])) > 0


@pytest.mark.parametrize(('room', 'asked', 'batch'), [(3, 9, 2), (9, 9, 8), (9, 4, 4), (0, 9, 1)])
def test_batches_grow_as_long_as_they_fit(benchmark, monkeypatch, room, asked, batch):
    encoders = benchmark('encoders')

    def step(forward, model):
        if forward > room:
            raise torch.OutOfMemoryError
        return lambda: None

    monkeypatch.setattr(encoders, 'forwards', lambda *args: (args[-1].batch,) * 2)
    monkeypatch.setattr(encoders, 'backward', step)
    options = argparse.Namespace(**OPTIONS | {'largest': asked})
    assert encoders.largest(*[torch.nn.Identity()] * 2, INPUT, options).batch == batch


def test_memory_of_a_call(benchmark):
    def call():
        one = torch.empty(2**20)
        other = torch.empty(2**19)
        del one
        return other, torch.empty(3 * 2**20)

    torch.ones(2**22)
    assert benchmark('encoders').peak_mib(call, 'cpu') == pytest.approx(14, abs=0.1)


def test_operations_grow_little_with_bands_and_sensors(benchmark):
    """The bounds on cost that can be counted: 200 bands for 12, two sensors for one."""
    encoders = benchmark('encoders')
    encoder = encoders.ENCODERS['AnySensorViT tiny'].build().eval()

    def gflop(name):
        views = encoders.views(name, batch=1, device='cpu', hole=True)
        return encoders.gflop_of(lambda: encoder(views, token_m=encoders.INPUTS[name][2]))

    assert gflop('200 bands, 224 x 224') <= 1.7 * gflop('12 bands, 224 x 224')
    assert gflop('both, 2.4 km') <= 1.1 * gflop('Sentinel-2, 2.4 km')


class InThisProcess(ThreadPoolExecutor):
    def __init__(self, workers, mp_context):
        super().__init__(workers)


def test_an_encoder_that_cannot_read_an_input_is_told_so(benchmark, monkeypatch):
    encoders = benchmark('encoders')
    monkeypatch.setattr(encoders, 'ProcessPoolExecutor', InThisProcess)
    options = argparse.Namespace(**OPTIONS)
    row = encoders.row('timm ViT tiny', 'Landsat, 2.4 km', options)
    assert 'fixed bands' in row[2]
    for error, said in ((BrokenProcessPool, 'killed'), (torch.OutOfMemoryError, 'out of memory')):
        monkeypatch.setattr(encoders, 'measure', Mock(side_effect=error))
        assert said in encoders.row('Atomizer tiny', INPUT, options)[2]
    monkeypatch.setattr(encoders, 'measure', Mock(side_effect=ValueError('of another kind')))
    with pytest.raises(ValueError, match='of another kind'):
        encoders.row('Atomizer tiny', INPUT, options)


@pytest.fixture
def transfer(benchmark, monkeypatch, tmp_path):
    """The benchmark, and a call of it in miniature that gives its table, and how many it trained."""
    module = benchmark('spectral_transfer')
    monkeypatch.setattr(module, 'SEEDS', (0,))
    monkeypatch.setattr(module, 'SOURCE', module.SOURCE)  # tests may set it

    def call(capsys, *options, out=tmp_path / 'runs.jsonl', workers=1):
        small = ['--steps', '4', '--canopies', '1000', '--workers', str(workers)]
        module.main([*small, '--out', str(out), *options])
        said = capsys.readouterr().out.splitlines()
        table = [line.strip('| ').split(' | ') for line in said if line.startswith('| ')]
        return table, sum(line.startswith('Training(') for line in said)

    return module, call


def test_transfer_between_sensors(transfer, capsys):
    module, call = transfer
    (heads, _, *rows), trained = call(capsys)
    assert trained == len(rows) == 2 * len(module.ROWS) == 20
    assert [tuple(row[:3]) for row in rows] == [
        (*row, virtual) for row in module.ROWS for virtual in ('no', 'yes')
    ]
    assert {row[0] for row in rows} == set(module.WAYS)
    assert heads[5:] == [*module.UNSEEN]
    for row in rows:
        seen, unseen, *each = (float(cell.split()[0]) for cell in row[3:])
        assert 0.5 < seen < 10
        assert unseen == pytest.approx(sum(each) / len(each), abs=0.011)  # each is rounded
    assert call(capsys) == ([heads, ['---'] * len(heads), *rows], 0)
    assert call(capsys, '--print', '--ways', 'both')[1] == 0
    assert call(capsys, '--steps', '5', '--print')[0][2:] == []  # of another size


def test_transfer_is_run_again_after_a_change_of_the_sources(transfer, capsys, tmp_path):
    module, call = transfer
    ours = ('--ways', 'interpolated spectrum')
    table, trained = call(capsys, *ours)
    assert trained == len(table) - 2 == 2
    assert call(capsys, *ours) == (table, 0)
    files = {file.name for file in module.sources()}
    assert {'spectral_transfer.py', 'interpolation.py', 'codes.py', 'spectra.py'} <= files
    changed = tmp_path / 'codes.py'
    changed.write_text('REACH = 1')
    before = module.digest([changed])
    changed.write_text('REACH = 2')
    assert module.digest([changed]) != before
    module.SOURCE = 'another'
    assert call(capsys, '--print')[0][2:] == []
    assert call(capsys, *ours) == (table, 2)


def test_transfer_is_the_same_for_any_number_of_workers(transfer, capsys, tmp_path):
    _, call = transfer
    ways = ('--ways', 'interpolated spectrum')
    alone, beside = tmp_path / 'alone.jsonl', tmp_path / 'beside.jsonl'
    assert call(capsys, *ways, out=alone) == call(capsys, *ways, out=beside, workers=2)
    errors = [
        {json.dumps(line['training']): line['errors'] for line in map(json.loads, file.open())}
        for file in (alone, beside)
    ]
    assert errors[0] == errors[1]
    assert len(errors[0]) == 2


def test_transfer_is_told_with_intervals_over_the_seeds(benchmark):
    module = benchmark('spectral_transfer')
    one = module.Training('both', 'integrated', virtual=True, seed=0)
    trainings = [dataclasses.replace(one, seed=seed) for seed in module.SEEDS]
    errors = dict.fromkeys(module.SEEN, 1.0)
    done = {
        training: errors | dict.fromkeys(module.UNSEEN, 1 + 0.1 * training.seed)
        for training in trainings
    }
    row = module.table(trainings, done).splitlines()[-1].strip('| ').split(' | ')
    # A standard deviation of 0.1; Student's t of three seeds is 4.303
    assert row[:5] == ['both', 'integrated', 'yes', '1.00 ± 0.00', '1.10 ± 0.25']
    assert row[5:] == ['1.10'] * len(module.UNSEEN)


def test_tradeoffs_of_the_encoders_after_papers(benchmark, monkeypatch, capsys):
    tradeoffs = benchmark('encoder_tradeoffs')
    shallow = [partial(build, depth=2) for build in tradeoffs.BUILDERS['tiny']]
    monkeypatch.setitem(tradeoffs.BUILDERS, 'tiny', shallow)
    monkeypatch.setattr('sys.argv', ['encoder_tradeoffs.py', '--patch-m=120', '--repeats=1'])
    tradeoffs.main()
    lines = [line.strip('| ').split(' | ') for line in capsys.readouterr().out.splitlines()]
    rows = [[float(cell) for cell in line] for line in lines if line[0][:1].isdigit()]
    ramen, atomizer = rows[:4], rows[4:]
    assert [row[:2] for row in ramen] == [[120, 1], [60, 4], [30, 16], [20, 36]]
    assert sorted(row[2] for row in ramen) == [row[2] for row in ramen]
    assert [row[0] for row in atomizer] == [1, 4, 12, 48, 200] + 5 * [12]
    assert all(row[3] == row[0] * row[2] for row in atomizer)
    further = [row[6] for row in atomizer if len(row) == 7]
    assert len(further) == 8
    assert max(further) == pytest.approx(min(further), rel=0.02)  # linear in the tokens
