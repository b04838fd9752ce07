# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from torchgeo_anysensor.losses import CrossSensorInfoNCE, retrieval_accuracy


def unit(x):
    return x / x.norm()


def slow_logits(embeddings, present, name, i, temperature):
    """From the definition: logits of sample i of a sensor, and the position of the right one."""

    def centroid(j):
        others = [unit(embeddings[o][j]) for o in embeddings if o != name and present[o][j]]
        return unit(torch.stack(others).mean(0)) if present[name][j] and others else None

    logits, right = [], None
    for j in range(len(present[name])):
        c = centroid(j)
        if c is not None:
            right = len(logits) if i == j else right
            logits.append(unit(embeddings[name][i]) @ c / temperature)
    return logits, right


def slow_loss(embeddings, present, temperature):
    sensors = []
    for name in embeddings:
        samples = []
        for i in range(len(present[name])):
            logits, right = slow_logits(embeddings, present, name, i, temperature)
            if right is not None:
                samples.append(-logits[right] + torch.stack(logits).exp().sum().log())
        if samples:
            sensors.append(sum(samples) / len(samples))
    return sum(sensors) / len(sensors)


def draw(sensors, batch=7, dim=8, absent=0.4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    embeddings, present = {}, {}
    for m in range(sensors):
        embeddings[f's{m}'] = 3 * torch.randn(batch, dim, generator=generator)
        present[f's{m}'] = torch.rand(batch, generator=generator) >= absent
    return embeddings, present


def with_grad(embeddings):
    return {name: x.clone().requires_grad_() for name, x in embeddings.items()}


@pytest.mark.parametrize('sensors', [2, 3, 4, 5])
@pytest.mark.parametrize('seed', [0, 1, 2])
@pytest.mark.parametrize('temperature', [0.1, 1.0])
def test_equals_the_definition(sensors, seed, temperature):
    embeddings, present = draw(sensors, seed=seed)
    fast, slow = with_grad(embeddings), with_grad(embeddings)
    actual = CrossSensorInfoNCE(temperature)(fast, present)
    expected = slow_loss(slow, present, temperature)
    assert_close(actual, expected)
    actual.backward()
    expected.backward()
    for name in embeddings:
        other = slow[name].grad
        other = torch.zeros_like(fast[name]) if other is None else other
        assert_close(fast[name].grad, other, atol=1e-6, rtol=1e-4)


def test_equals_clip_for_two_sensors():
    embeddings, _ = draw(2)
    a, b = (F.normalize(x, dim=-1) for x in embeddings.values())
    logits, right = a @ b.T / 0.07, torch.arange(len(a))
    clip = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
    assert_close(CrossSensorInfoNCE(0.07)(embeddings), clip)


def test_no_present_means_all_present():
    embeddings, _ = draw(3)
    everywhere = {name: torch.ones(7, dtype=torch.bool) for name in embeddings}
    assert torch.equal(
        CrossSensorInfoNCE()(embeddings), CrossSensorInfoNCE()(embeddings, everywhere)
    )


def test_order_of_sensors_and_samples_does_not_matter():
    embeddings, present = draw(4)
    expected = CrossSensorInfoNCE()(embeddings, present)
    backwards = dict(reversed(embeddings.items()))
    assert_close(CrossSensorInfoNCE()(backwards, present), expected)
    order = torch.randperm(7)
    shuffled = [{name: x[order] for name, x in d.items()} for d in (embeddings, present)]
    assert_close(CrossSensorInfoNCE()(*shuffled), expected)


@pytest.mark.parametrize('value', [math.nan, math.inf, 1e30, 0.0])
def test_absent_rows_change_nothing(value):
    embeddings, present = draw(3)
    spoilt = {n: torch.where(present[n][:, None], x, value) for n, x in embeddings.items()}
    clean, dirty = with_grad(embeddings), with_grad(spoilt)
    expected, actual = (CrossSensorInfoNCE()(x, present) for x in (clean, dirty))
    assert torch.equal(actual, expected)
    expected.backward()
    actual.backward()
    for name in embeddings:
        assert torch.equal(dirty[name].grad, clean[name].grad)
        assert not dirty[name].grad[~present[name]].any()
    assert retrieval_accuracy(spoilt, present) == retrieval_accuracy(embeddings, present)


def test_absent_sensor_equals_fewer_sensors():
    embeddings, present = draw(3)
    present['s1'][:] = False
    two = [{name: d[name] for name in ('s0', 's2')} for d in (embeddings, present)]
    assert_close(CrossSensorInfoNCE()(embeddings, present), CrossSensorInfoNCE()(*two))


def test_nothing_shared_gives_zero_with_a_graph():
    embeddings, _ = draw(2, batch=4)
    embeddings['s0'][0] = math.nan
    embeddings = with_grad(embeddings)
    present = {'s0': torch.tensor([1, 1, 0, 0]).bool(), 's1': torch.tensor([0, 0, 1, 0]).bool()}
    loss = CrossSensorInfoNCE()(embeddings, present)
    assert loss == 0
    loss.backward()
    assert all(x.grad is not None and not x.grad.any() for x in embeddings.values())
    assert all(math.isnan(x) for x in retrieval_accuracy(embeddings, present))


def test_float32_under_autocast_and_for_half():
    embeddings, present = draw(3)
    expected = CrossSensorInfoNCE()(embeddings, present)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        actual = CrossSensorInfoNCE()(embeddings, present)
    assert torch.equal(actual, expected)
    half = {name: x.bfloat16() for name, x in embeddings.items()}
    again = {name: x.float() for name, x in half.items()}
    loss = CrossSensorInfoNCE()(half, present)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, CrossSensorInfoNCE()(again, present))


def test_agreement_is_rewarded():
    place = torch.randn(16, 8)
    alike = {name: place + 0.1 * torch.randn(16, 8) for name in 'abc'}
    apart = {name: torch.randn(16, 8) for name in 'abc'}
    assert CrossSensorInfoNCE()(alike) < 0.5 * CrossSensorInfoNCE()(apart)


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_retrieval_equals_the_definition(seed):
    embeddings, present = draw(4, seed=seed)
    # Halfway between noise and agreement, so that some are right and some are wrong
    place = torch.randn(7, 8, generator=torch.Generator().manual_seed(seed))
    embeddings = {name: x / 3 + place for name, x in embeddings.items()}
    accuracies, chances = [], []
    for name in embeddings:
        hits, count = [], 0
        for i in range(7):
            logits, right = slow_logits(embeddings, present, name, i, 1.0)
            if right is not None:
                hits.append(float(max(range(len(logits)), key=lambda k: logits[k]) == right))
                count = len(logits)
        if hits:
            accuracies.append(sum(hits) / len(hits))
            chances.append(1 / count)
    accuracy, chance = retrieval_accuracy(embeddings, present)
    assert float(accuracy) == pytest.approx(sum(accuracies) / len(accuracies))
    assert float(chance) == pytest.approx(sum(chances) / len(chances))


def test_retrieval_of_agreeing_sensors():
    place = torch.randn(10, 8)
    accuracy, chance = retrieval_accuracy({'a': place, 'b': 2 * place, 'c': 0.5 * place})
    assert accuracy == 1
    assert chance == pytest.approx(0.1)


@pytest.mark.parametrize('function', [CrossSensorInfoNCE(), retrieval_accuracy])
def test_wrong_input_raises(function):
    a, here = torch.randn(4, 8), torch.ones(4, dtype=torch.bool)
    with pytest.raises(ValueError, match='at least two sensors'):
        function({'a': a})
    with pytest.raises(ValueError, match='at least two sensors'):
        function({})
    for other in (a[:3], a[:, :5], a[0]):
        with pytest.raises(ValueError, match='must all be'):
            function({'a': a, 'b': other})
    with pytest.raises(ValueError, match='must all be'):
        function({'a': a[0], 'b': a[0]})
    for present in ({'a': here}, {'a': here, 'c': here}, {'a': here, 'b': here, 'c': here}, {}):
        with pytest.raises(ValueError, match='must name the sensors'):
            function({'a': a, 'b': a}, present)
    with pytest.raises(ValueError, match=r'must be \(4,\)'):
        function({'a': a, 'b': a}, {'a': here, 'b': here[:3]})


@pytest.mark.parametrize('temperature', [0.0, -0.1, math.nan, math.inf])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match='temperature must be positive'):
        CrossSensorInfoNCE(temperature)


def test_init_args_rebuild():
    loss = CrossSensorInfoNCE(0.2)
    assert CrossSensorInfoNCE(**loss.init_args).temperature == 0.2
