# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The objectives to compare with, beside plain loops from their papers."""

import math
from itertools import combinations

import pytest
import torch
from slow_losses import (
    draw,
    draw_weight,
    grads,
    slow_gram,
    slow_pairs,
    slow_symile,
    slow_vicreg,
    with_grad,
)
from torch.testing import assert_close

from torchgeo_anysensor.losses import (
    AllPairsInfoNCE,
    AnchorInfoNCE,
    CrossSensorInfoNCE,
    CrossSensorVICReg,
    GramVolume,
    Symile,
)

#: How each is made, and its plain loop.
OBJECTIVES = {
    'pairs': (
        lambda **o: AllPairsInfoNCE(0.2, **o),
        lambda x, p: slow_pairs(x, p, 0.2, combinations(x, 2)),
    ),
    'anchor': (
        lambda **o: AnchorInfoNCE('s1', temperature=0.2, **o),
        lambda x, p: slow_pairs(x, p, 0.2, [('s1', n) for n in x if n != 's1']),
    ),
    'volume': (
        lambda **o: GramVolume('s1', temperature=0.2, **o),
        lambda x, p: slow_gram(x, p, 0.2, 's1'),
    ),
    'symile': (lambda **o: Symile(0.02, **o), lambda x, p: slow_symile(x, p, 0.02)),
    'vicreg': (lambda chunk=0: CrossSensorVICReg(), lambda x, p: slow_vicreg(x, p, 0)),
    'decur': (lambda chunk=0: CrossSensorVICReg(private=3), lambda x, p: slow_vicreg(x, p, 3)),
}
ALL = pytest.mark.parametrize('name', OBJECTIVES)


@ALL
@pytest.mark.parametrize('sensors', [2, 3, 4, 6])
@pytest.mark.parametrize('seed', [0, 1])
@pytest.mark.parametrize('chunk', [3, 100])
def test_equals_the_plain_loop(name, sensors, seed, chunk):
    make, slow = OBJECTIVES[name]
    embeddings, present = draw(sensors, batch=9, seed=seed, absent=0.25, dtype=torch.float64)
    given, plain = with_grad(embeddings), with_grad(embeddings)
    actual, expected = make(chunk=chunk)(given, present), slow(plain, present)
    assert_close(actual, expected, rtol=1e-5, atol=1e-7)
    actual.backward()
    expected.backward()
    assert_close(grads(given), grads(plain), rtol=1e-4, atol=1e-6)


@ALL
def test_absent_rows_change_nothing(name):
    make, _ = OBJECTIVES[name]
    embeddings, present = draw(3, absent=0.2)
    spoilt = {n: torch.where(present[n][:, None], x, math.nan) for n, x in embeddings.items()}
    clean, dirty = with_grad(embeddings), with_grad(spoilt)
    expected, actual = make()(clean, present), make()(dirty, present)
    assert torch.equal(actual, expected)
    expected.backward()
    actual.backward()
    assert_close(grads(dirty), grads(clean), rtol=0, atol=0)


@ALL
def test_nothing_shared_gives_zero_with_a_graph(name):
    make, _ = OBJECTIVES[name]
    embeddings, _ = draw(2, batch=4)
    embeddings['s0'][0] = math.nan
    given = with_grad(embeddings)
    here = torch.tensor([1, 1, 0, 0]).bool()
    loss = make()(given, {'s0': here, 's1': ~here})
    assert loss == 0
    loss.backward()
    assert all(x.grad is not None and not x.grad.any() for x in given.values())


@ALL
def test_called_like_the_loss_that_it_is_compared_with(name):
    make, _ = OBJECTIVES[name]
    embeddings, present = draw(3, absent=0.2)
    options = {'weight': draw_weight(present), 'place': torch.rand(7, 2)}
    for loss in (make(), CrossSensorInfoNCE()):
        assert torch.isfinite(loss(embeddings, present, **options))
    assert make()(embeddings, present, **options) == make()(embeddings, present)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = make()(embeddings, present)
    assert torch.equal(inside, make()(embeddings, present))
    half = {n: x.bfloat16() for n, x in embeddings.items()}
    assert make()(half, present).dtype == torch.float32
    again = make()
    assert type(again)(**again.init_args)(embeddings, present) == make()(embeddings, present)
    with pytest.raises(ValueError, match='at least two sensors'):
        make()({'s1': embeddings['s1']})


def test_pairs_of_two_sensors_equal_ours():
    embeddings, present = draw(2)
    expected = CrossSensorInfoNCE()(embeddings, present)
    assert_close(AllPairsInfoNCE()(embeddings, present), expected)
    assert_close(AnchorInfoNCE('s0')(embeddings, present), expected)


def test_symile_tells_what_no_pair_tells():
    """The third sensor is the sign of the product of two others: pairs are independent."""
    torch.manual_seed(0)
    a, b = (torch.randn(64, 16).sign() for _ in range(2))
    embeddings = {'a': a, 'b': b, 'c': a * b}
    shuffled = {**embeddings, 'c': (a * b)[torch.randperm(64)]}
    assert Symile(0.02)(embeddings) < 0.3 * Symile(0.02)(shuffled)
    assert AllPairsInfoNCE()(embeddings) > 0.9 * AllPairsInfoNCE()(shuffled)


@pytest.mark.parametrize('name', ['pairs', 'anchor', 'volume', 'symile'])
def test_temperature_is_learned(name):
    make, _ = OBJECTIVES[name]
    embeddings, _ = draw(3)
    loss = make(temperature_bounds=(0.01, 1))
    loss(embeddings).backward()
    (parameter,) = loss.parameters()
    assert parameter.grad != 0
    assert loss.temperature == pytest.approx(make().temperature)


def test_wrong_options_raise():
    embeddings, _ = draw(2)
    for kind in (AnchorInfoNCE, GramVolume):
        with pytest.raises(ValueError, match="anchor='landsat' is none of the sensors"):
            kind('landsat')(embeddings)
    with pytest.raises(ValueError, match='private=8 leaves none of D=8'):
        CrossSensorVICReg(private=8)(embeddings)
    with pytest.raises(ValueError, match='variance must be at least 0'):
        CrossSensorVICReg(variance=-1)
    with pytest.raises(ValueError, match='chunk must be at least 1'):
        Symile(chunk=0)
