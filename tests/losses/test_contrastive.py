# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import math

import pytest
import torch
import torch.nn.functional as F
from slow_losses import draw, draw_weight, grads, slow_infonce, target, unit, with_grad
from torch.testing import assert_close

from torchgeo_anysensor.losses import CrossSensorInfoNCE, retrieval_accuracy

OPTIONS = {
    'plain': {},
    'warm': {'temperature': 1.0},
    'weighted': {'weight': True},
    'apart': {'min_distance': 40.0},
    'unlike': {'max_similarity': 0.3},
    'all': {'weight': True, 'min_distance': 30.0, 'max_similarity': 0.6, 'temperature': 0.5},
}


@pytest.mark.parametrize('sensors', [2, 3, 4, 5, 6])
@pytest.mark.parametrize('seed', [0, 1, 2])
@pytest.mark.parametrize('sigmoid', [False, True])
@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
def test_equals_the_definition(sensors, seed, sigmoid, options):
    """Loss, and gradient to embeddings, weights and temperature, of a plain loop in float64."""
    options = {'temperature': 0.1, **options}
    embeddings, present = draw(sensors, batch=9, seed=seed, dtype=torch.float64)
    weight = draw_weight(present, seed, torch.float64) if options.pop('weight', False) else None
    place = 100 * torch.rand(9, 2, generator=torch.Generator().manual_seed(seed)).double()
    place[4] = math.nan  # not known: near to nothing
    fast, slow = with_grad(embeddings), with_grad(embeddings)
    heavy, slow_heavy = (None if weight is None else with_grad(weight) for _ in range(2))
    start = options.pop('temperature')
    module = CrossSensorInfoNCE(
        start, temperature_bounds=(0.01, 3), sigmoid=sigmoid, chunk=4, **options
    ).double()
    actual = module(fast, present, weight=heavy, place=place)
    temperature = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-10.0, dtype=torch.float64, requires_grad=True) if sigmoid else None
    expected = slow_infonce(
        slow, present, temperature=temperature, weight=slow_heavy, place=place, bias=bias, **options
    )
    assert_close(actual, expected, rtol=1e-6, atol=1e-9)
    actual.backward()
    expected.backward()
    assert_close(grads(fast), grads(slow), rtol=1e-6, atol=1e-9)
    if weight is not None:
        assert_close(grads(heavy), grads(slow_heavy), rtol=1e-6, atol=1e-9)
    if sigmoid and bias.grad is not None:
        assert_close(module.bias.grad, bias.grad)
    if temperature.grad is not None:
        # dT/du of T = low (high / low) ** sigmoid(u)
        share = math.log(start / 0.01) / math.log(300)
        chain = start * math.log(300) * share * (1 - share)
        assert_close(module._temperature.free.grad, temperature.grad * chain, rtol=1e-5, atol=1e-9)


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
        found = [target(embeddings, present, None, name, j) for j in range(7)]
        shared = [j for j in range(7) if found[j] is not None]
        hits = [
            max(shared, key=lambda j: unit(embeddings[name][i]) @ found[j]) == i for i in shared
        ]
        if shared:
            accuracies.append(sum(hits) / len(hits))
            chances.append(1 / len(shared))
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


def test_rows_without_a_negative_take_no_part():
    embeddings, _ = draw(2, batch=4)
    place = torch.tensor([[0.0, 0.0], [1.0, 0.0], [500.0, 0.0], [501.0, 0.0]])
    loss = CrossSensorInfoNCE(min_distance=100.0)
    assert loss(embeddings, place=place) > 0
    assert loss(embeddings, place=place / 1e3) == 0  # all are near
    here = {'s0': torch.tensor([1, 0, 0, 0]).bool(), 's1': torch.tensor([1, 0, 0, 1]).bool()}
    assert CrossSensorInfoNCE()(embeddings, here) == 0
    assert CrossSensorInfoNCE(sigmoid=True)(embeddings, here) == 0


@pytest.mark.parametrize('origin', [(5e5, 5.2e6), (1.7e5, 4.2e6, 4.78e6)])
def test_distance_is_exact_far_from_the_origin(origin):
    """Northings of seven digits, which float32 rounds to half a metre."""
    embeddings, _ = draw(2, batch=4)
    place = torch.tensor(origin).double().repeat(4, 1)
    place[:, 1] += torch.tensor([0.2, 100.0, 250.0, 349.9]).double()  # pairs of 99.8 and 99.9 m
    for metres in (99.7, 99.85, 100.0):
        expected = slow_infonce(embeddings, *_all(embeddings), place=place, min_distance=metres)
        assert_close(CrossSensorInfoNCE(min_distance=metres)(embeddings, place=place), expected)


def _all(embeddings):
    return ({name: torch.ones(len(x), dtype=torch.bool) for name, x in embeddings.items()},)


def test_the_same_place_twice_is_no_negative():
    place = torch.randn(6, 8)
    twice = {name: torch.cat([place, place]) for name in 'abc'}
    where = torch.arange(6.0).repeat(2)[:, None] * torch.ones(2)
    told = CrossSensorInfoNCE(min_distance=0.5)(twice, place=where)
    assert_close(CrossSensorInfoNCE(max_similarity=0.999)(twice), told)
    assert CrossSensorInfoNCE()(twice) > told + 0.3


def test_only_ratios_of_weights_matter():
    embeddings, present = draw(4)
    weight = draw_weight(present)
    expected = CrossSensorInfoNCE()(embeddings, present, weight=weight)
    scaled = {name: 1e-4 * x for name, x in weight.items()}
    assert_close(CrossSensorInfoNCE()(embeddings, present, weight=scaled), expected)
    equal = {name: torch.full((7,), 0.3) for name in weight}
    plain = CrossSensorInfoNCE()(embeddings, present)
    assert_close(CrossSensorInfoNCE()(embeddings, present, weight=equal), plain)
    assert abs(plain - expected) > 1e-3


def test_a_sensor_without_weight_is_no_target():
    """It must still find the others."""
    embeddings, _ = draw(3)
    ones = torch.ones(7)
    fast = with_grad(embeddings)
    CrossSensorInfoNCE()(fast, weight={'s0': ones, 's1': ones, 's2': 0 * ones}).backward()
    assert fast['s2'].grad.any()
    two = {name: embeddings[name] for name in ('s0', 's1')}
    of_two = CrossSensorInfoNCE()(two)
    third = CrossSensorInfoNCE()(embeddings, weight={'s0': ones, 's1': ones, 's2': 0 * ones})
    mean = F.normalize(sum(F.normalize(x, dim=-1) for x in two.values()), dim=-1)
    logits = F.normalize(embeddings['s2'], dim=-1) @ mean.T / 0.1
    assert_close(third, (2 * of_two + F.cross_entropy(logits, torch.arange(7))) / 3)


@pytest.mark.parametrize('lr', [1e-2, 10.0])
@pytest.mark.parametrize('sign', [-1, 1])
def test_learned_temperature_moves_and_stays_within_its_bounds(lr, sign):
    embeddings, _ = draw(2)
    loss = CrossSensorInfoNCE(0.1, temperature_bounds=(0.05, 0.5))
    assert loss.temperature == pytest.approx(0.1)
    optimizer = torch.optim.SGD(loss.parameters(), lr=lr)
    for _ in range(50):
        optimizer.zero_grad()
        (sign * loss(embeddings)).backward()
        optimizer.step()
        assert 0.05 <= loss.temperature <= 0.5
        assert torch.isfinite(loss(embeddings))
    # Noise is easiest to bear when all are alike
    assert (loss.temperature - 0.1) * sign > 1e-3
    again = CrossSensorInfoNCE(**loss.init_args)
    again.load_state_dict(loss.state_dict())
    assert again.temperature == loss.temperature


@pytest.mark.parametrize('bounds', [(0.2, 1.0), (0.01, 0.1), (0.0, 1.0), (0.01, math.inf), (0.5,)])
def test_bounds_hold_the_temperature(bounds):
    with pytest.raises(ValueError, match='temperature_bounds must be positive and on both sides'):
        CrossSensorInfoNCE(0.1, temperature_bounds=bounds)


def test_wrong_weight_and_place_raise():
    embeddings, present = draw(2)
    ones = torch.ones(7)
    loss = CrossSensorInfoNCE()
    with pytest.raises(ValueError, match='weight must name the sensors'):
        loss(embeddings, present, weight={'s0': ones})
    with pytest.raises(ValueError, match=r'weight must be \(7,\)'):
        loss(embeddings, present, weight={'s0': ones, 's1': ones[:3]})
    for value in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"finite and at least 0, but not so that of \['s1'\]"):
            loss(embeddings, weight={'s0': ones, 's1': value * ones})
    absent = {'s0': ones.bool(), 's1': ~ones.bool()}
    loss(embeddings, absent, weight={'s0': ones, 's1': math.nan * ones})
    for place in (torch.zeros(7), torch.zeros(7, 4), torch.zeros(6, 2)):
        with pytest.raises(ValueError, match=r'place must be \(7, 2\) or \(7, 3\) metres'):
            loss(embeddings, present, place=place)
    with pytest.raises(ValueError, match='needs the place of each row'):
        CrossSensorInfoNCE(min_distance=30.0)(embeddings, present)


@pytest.mark.parametrize(
    'wrong', [{'min_distance': -1.0}, {'max_similarity': 1.5}, {'max_similarity': -1}, {'chunk': 0}]
)
def test_wrong_options_raise(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CrossSensorInfoNCE(**wrong)
