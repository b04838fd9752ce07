# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The benchmarks of the encoders run, in miniature; their numbers are of no interest here."""

import argparse
import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / 'benchmarks'


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def test_costs_of_an_encoder(benchmark):
    encoders = benchmark('encoders')
    options = {'device': 'cpu', 'dtype': 'bfloat16', 'batch': 1, 'repeats': 1, 'threads': 1}
    row = encoders.measure(
        'AnySensorViT tiny', '12 bands, 224 x 224', argparse.Namespace(**options, compile=False)
    )
    assert row[:2] == ['AnySensorViT tiny', '12 bands, 224 x 224']
    parameters, tokens, gflop, ratio = map(float, row[2:6])
    assert tokens == 14 * 14
    assert 5 < parameters < 7
    assert gflop == pytest.approx(3.0, abs=0.3)
    assert 1 < ratio <= 1.15
    assert all(float(cell) >= 0 for cell in row[6:])


def test_operations_grow_little_with_bands_and_sensors(benchmark):
    """The bounds on cost that can be counted: 200 bands for 12, two sensors for one."""
    encoders = benchmark('encoders')
    encoder = encoders.ENCODERS['AnySensorViT tiny'].build().eval()

    def gflop(name):
        views = encoders.views(name, batch=1, device='cpu')
        return encoders.gflop_of(lambda: encoder(views, token_m=encoders.INPUTS[name][2]))

    assert gflop('200 bands, 224 x 224') <= 1.7 * gflop('12 bands, 224 x 224')
    assert gflop('both, 2.4 km') <= 1.1 * gflop('Sentinel-2, 2.4 km')


def test_an_encoder_that_cannot_read_an_input_is_told_so(benchmark):
    encoders = benchmark('encoders')
    options = {'device': 'cpu', 'dtype': 'float32', 'batch': 1, 'repeats': 1, 'threads': 1}
    row = encoders.row(
        ('timm ViT tiny', 'Landsat, 2.4 km', argparse.Namespace(**options, compile=False))
    )
    assert 'fixed bands' in row[2]


@pytest.mark.parametrize('way', ['linear hypernetwork', 'spectral attention'])
def test_transfer_between_sensors(benchmark, monkeypatch, way):
    transfer = benchmark('spectral_transfer')
    monkeypatch.setattr(transfer, 'STEPS', 4)
    errors = transfer.run(way, 'integrated', virtual=True, seed=0)
    assert set(errors) == set(transfer.SEEN | transfer.UNSEEN)
    assert all(0.5 < error < 10 for error in errors.values())
