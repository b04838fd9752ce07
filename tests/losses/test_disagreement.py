# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Variances that make the differences between sensors likely are those of their errors."""

import itertools
import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from torchgeo_anysensor.losses import disagreement_nll


def draw(sensors, rows=6, dims=3):
    torch.manual_seed(0)
    mean, log_var = torch.randn(2, sensors, rows, dims).double()
    names = 'abcdefgh'[:sensors]
    return dict(zip(names, mean)), dict(zip(names, log_var))


@pytest.mark.parametrize('sensors', [2, 3, 5])
def test_likelihood_is_that_of_the_joint_differences(sensors):
    mean, log_var = draw(sensors)
    x, v = (torch.stack([*each.values()]) for each in (mean, log_var))
    v = v.exp()
    against = torch.eye(sensors).double()[1:] - torch.eye(sensors).double()[0]  # (M - 1, M)
    expected = 0.0
    for row, dim in itertools.product(range(6), range(3)):
        joint = against @ torch.diag(v[:, row, dim]) @ against.T
        zero = torch.zeros(sensors - 1).double()
        expected -= MultivariateNormal(zero, joint).log_prob(against @ x[:, row, dim])
    count = 18 * (sensors - 1)
    expected = expected / count - 0.5 * math.log(2 * math.pi)
    assert torch.allclose(disagreement_nll(mean, log_var).nll, expected)


def test_absent_rows_take_no_part():
    mean, log_var = draw(3)
    present = {n: torch.tensor([True] * 6) for n in mean}
    present['a'][[0, 1]] = False
    present['b'][[1, 2]] = False
    present['c'][3] = False
    for name, there in present.items():
        mean[name][~there], log_var[name][~there] = math.nan, math.nan
    total, count = 0.0, 0
    for row in (0, 2, 3, 4, 5):  # in row 1, c is alone
        names = [n for n in mean if present[n][row]]
        alone = disagreement_nll(*({n: x[n][[row]] for n in names} for x in (mean, log_var)))
        total, count = total + alone.nll * (len(names) - 1), count + len(names) - 1
    assert torch.allclose(disagreement_nll(mean, log_var, present).nll, total / count)


def test_nobody_together_is_zero_with_a_gradient():
    mean, log_var = draw(2)
    log_var = {name: x.requires_grad_() for name, x in log_var.items()}
    apart = {'a': torch.tensor([True] * 3 + [False] * 3), 'b': torch.tensor([False] * 6)}
    found = disagreement_nll(mean, log_var, apart)
    assert found == (0, 0)
    found.nll.backward()
    assert all(torch.equal(x.grad, torch.zeros(6, 3)) for x in log_var.values())


def test_means_get_no_gradient():
    mean, log_var = draw(3)
    for x in (*mean.values(), *log_var.values()):
        x.requires_grad_()
    disagreement_nll(mean, log_var).nll.backward()
    assert all(x.grad is None for x in mean.values())
    assert all(x.grad.abs().min() > 0 for x in log_var.values())


def test_three_sensors_tell_the_noise_of_each_and_of_each_dimension():
    """From a start far off."""
    torch.manual_seed(0)
    true = torch.tensor([[-2.0, 0.0], [1.0, -2.0], [-1.0, 1.0]])
    z = torch.randn(20_000, 2)
    names = ('a', 'b', 'c')
    mean = dict(zip(names, z + (0.5 * true)[:, None].exp() * torch.randn(3, 20_000, 2)))
    log_var = torch.full((3, 1, 2), 3.0, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_var], max_iter=100, line_search_fn='strong_wolfe')

    def found():
        return disagreement_nll(mean, dict(zip(names, log_var.expand(3, 20_000, 2))))

    def closure():
        optimizer.zero_grad()
        nll = found().nll
        nll.backward()
        return nll

    optimizer.step(closure)
    assert torch.allclose(log_var[:, 0], true, atol=0.15)
    assert float(found().chi2) == pytest.approx(1, abs=0.03)


def test_two_sensors_tell_the_sum():
    mean, _ = draw(2)
    shares = [
        disagreement_nll(mean, {'a': torch.full((6, 3), a).log(), 'b': torch.full((6, 3), 2 - a).log()})
        for a in (0.2, 1.0, 1.9)
    ]  # fmt: skip
    assert all(torch.allclose(x.nll.double(), shares[0].nll.double()) for x in shares)


def test_cost_is_linear_in_the_sensors():
    def elements(sensors):
        mean, log_var = draw(sensors, rows=64)
        with torch.profiler.profile(profile_memory=True) as profile:
            disagreement_nll(mean, log_var)
        return sum(max(0, e.self_cpu_memory_usage) for e in profile.events())

    assert elements(8) < 4.2 * elements(2)


def test_each_mean_needs_its_variance():
    mean, log_var = draw(3)
    with pytest.raises(ValueError, match='each mean needs its log-variance'):
        disagreement_nll(mean, {name: log_var[name] for name in 'ab'})
    with pytest.raises(ValueError, match='at least two sensors'):
        disagreement_nll({'a': mean['a']}, {'a': log_var['a']})
