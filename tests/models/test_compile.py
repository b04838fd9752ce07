# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The network in one graph: compiled, and exported to a file."""

import io

import pytest
import torch
from torch.export import Dim
from torch.testing import assert_close

from torchgeo_anysensor.models import AnySensorViT, encode


@pytest.fixture
def encoder(awake):
    torch.manual_seed(0)
    facts = ['time', 'place', 'level']
    yield awake(AnySensorViT(32, depth=1, num_heads=2, band_dim=16, facts=facts)).eval()
    torch.compiler.reset()


@pytest.fixture
def sensors(make_view):
    """Sentinel-2 on two grids, Landsat on one, and both."""
    s2 = [make_view(4, size=(24, 24)), make_view(6, size=(12, 12), res=20.0)]
    landsat = [make_view(7, size=(8, 8), res=30.0, thermal=True)]
    landsat[0]['valid'][0, :3] = False
    return s2, landsat, s2 + landsat


@pytest.mark.parametrize(('grad', 'which'), [(False, (0, 1)), (True, (2,))])
def test_compiled_whole_for_each_sensor(encoder, sensors, grad, which):
    sensors = [sensors[n] for n in which]
    expected = [encode(encoder, views) for views in sensors]
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    keys = set(encoder.state_dict())
    encoder.compile(fullgraph=True, backend=backend)  # a break in the graph would raise
    with torch.set_grad_enabled(grad):
        actual = [encode(encoder, views) for views in sensors]
    for one, other in zip(actual, expected):
        assert_close(one.tokens, other.tokens, atol=1e-5, rtol=0)
        assert_close(one.pooled, other.pooled, atol=1e-5, rtol=0)
    assert len(graphs) == len(sensors)
    assert set(encoder.state_dict()) == keys


def test_the_same_graph_serves_other_batches_and_patches(encoder, sensors, make_view):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    encoder.compile(fullgraph=True, backend=backend, dynamic=True)
    with torch.no_grad():
        for batch, size in ((3, 24), (5, 24), (3, 36), (7, 48)):
            encode(encoder, make_view(4, size=(size, 24), batch=batch))
    assert len(graphs) == 1


def test_export_round_trip_for_any_batch_patch_and_bands(encoder, sensors, make_view):
    cells, positions, _ = encoder.cut(sensors[2])
    batch, places = Dim('batch'), Dim('places')
    view = {'pixels': {0: batch, 1: places, 2: Dim.AUTO}, 'valid': {0: batch, 1: places}}
    view |= {fact: {0: Dim.AUTO} for fact in ('wavelength', 'bandwidth', 'gsd')}
    view['known'] = {0: batch}
    shapes = ([view] * len(cells), {0: places})
    program = torch.export.export(encoder.cells, (cells, positions), dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    network = torch.export.load(file).module()
    others = [make_view(5, size=(30, 42), batch=5), make_view(3, size=(15, 21), res=20.0, batch=5)]
    others.append(make_view(4, size=(10, 14), res=30.0, batch=5, thermal=True))
    for other, rows in zip(others, (12, 6, 4)):  # two rows of cells that nothing has seen
        other['valid'][0, :rows] = False
    for views in (sensors[2], others):
        tokens, pooled, valid = network(*encoder.cut(views)[:2])
        expected = encode(encoder, views)
        assert_close(tokens, expected.tokens, atol=1e-5, rtol=0)
        assert_close(pooled, expected.pooled, atol=1e-5, rtol=0)
        assert torch.equal(valid, expected.valid)
    assert not valid.all()
