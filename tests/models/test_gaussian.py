# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Fusion of Gaussians keeps the laws of probability, and the head its bounds."""

import math

import pytest
import torch

from torchgeo_anysensor.models import Gaussian, GaussianHead, fuse, reliability

WAYS = ('precision', 'max_confidence', 'mean')


def draw(*shape, names='abc', seed=0):
    generator = torch.Generator().manual_seed(seed)
    pair = (2, *shape)
    return {
        n: Gaussian(*torch.randn(*pair, generator=generator, dtype=torch.float64)) for n in names
    }


def close(a, b):
    return all(torch.allclose(x, y) for x, y in zip(a, b))


@pytest.mark.parametrize('how', WAYS)
def test_one_sensor_is_itself(how):
    (one,) = draw(5, 4, names='a').values()
    assert close(fuse({'a': one}, how=how), one)


@pytest.mark.parametrize('how', WAYS)
def test_order_of_the_sensors_does_not_matter(how):
    latents = draw(5, 4)
    latents['b'].log_var[0] = latents['a'].log_var[0]  # a tie
    seen = {name: torch.rand(5) > 0.4 for name in latents}
    turned = dict(reversed(latents.items()))
    assert close(fuse(latents, seen, how=how), fuse(turned, seen, how=how))


def test_equal_variances_make_the_plain_mean():
    latents = {n: Gaussian(g.mean, torch.full_like(g.mean, 0.7)) for n, g in draw(5, 4).items()}
    mean = fuse(latents, how='mean')
    assert close(fuse(latents), mean)
    assert torch.allclose(mean.log_var, torch.tensor(0.7 - math.log(3)).double())


@pytest.mark.parametrize('how', ['precision', 'max_confidence'])
def test_a_sensor_that_knows_nothing_changes_nothing(how):
    latents = draw(5, 4)
    fused = fuse(latents, how=how)
    for nothing in (60.0, 1e4, math.inf):
        vague = Gaussian(torch.full((5, 4), 1e3).double(), torch.full((5, 4), nothing).double())
        assert close(fuse({**latents, 'd': vague}, how=how), fused)


@pytest.mark.parametrize('how', WAYS)
def test_what_was_not_seen_is_left_out_whatever_it_holds(how):
    latents = draw(5, 4)
    latents['b'].mean[2], latents['b'].log_var[2] = math.nan, math.nan
    seen = {name: torch.ones(5, dtype=torch.bool) for name in latents}
    seen['b'][2] = False
    rows = fuse({name: latents[name] for name in 'ac'}, how=how)
    fused = fuse(latents, seen, how=how)
    assert close([x[2] for x in fused], [x[2] for x in rows])
    assert not torch.allclose(fused.mean[1], rows.mean[1])


@pytest.mark.parametrize('how', WAYS)
def test_where_nobody_saw_the_mean_is_zero_and_the_gradient_finite(how):
    latents = {n: Gaussian(*(x.requires_grad_() for x in g)) for n, g in draw(3, 4).items()}
    seen = {name: torch.tensor([True, False, True]) for name in latents}
    fused = fuse(latents, seen, how=how)
    assert torch.equal(fused.mean[1], torch.zeros(4).double())
    assert bool((fused.log_var[1] == math.inf).all())
    (fused.mean.sum() + fused.log_var[[0, 2]].sum()).backward()
    assert all(x.grad.isfinite().all() for g in latents.values() for x in g)
    # What was fused of nothing can be fused again
    assert close(fuse({**latents, 'd': Gaussian(*(x[[1]] for x in fused))._replace(
        mean=torch.zeros(3, 4).double(), log_var=torch.full((3, 4), math.inf).double()
    )}, how=how), fuse(latents, how=how))  # fmt: skip


def test_the_most_confident_is_chosen_in_each_dimension():
    a = Gaussian(torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 1.0]))
    b = Gaussian(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.0]))
    fused = fuse({'a': a, 'b': b}, how='max_confidence')
    assert close(fused, (torch.tensor([1.0, 4.0]), torch.tensor([-1.0, 0.0])))


def test_precision_is_the_posterior_and_has_the_least_error():
    """Of a linear-Gaussian model, by inversion of the joint covariance of all that is observed."""
    torch.manual_seed(0)
    log_var = torch.tensor([[-2.0, 1.0], [0.0, -3.0], [1.5, 0.5]]).double()  # (M, P)
    z = 10 * torch.randn(20_000, 2).double()
    seen = z + (0.5 * log_var)[:, None].exp() * torch.randn(3, 20_000, 2).double()
    latents = {
        name: Gaussian(x, s.expand_as(x)) for name, x, s in zip('abc', seen, log_var)
    }  # fmt: skip
    fused = {how: fuse(latents, how=how) for how in WAYS}
    prior = 1e9
    for dim in range(2):
        joint = prior + torch.diag(log_var[:, dim].exp())
        gain = torch.linalg.solve(joint, torch.full((3,), prior).double())
        posterior = gain @ seen[..., dim]
        assert torch.allclose(fused['precision'].mean[:, dim], posterior, atol=1e-4)
        left = float(prior - gain.sum() * prior)
        assert float(fused['precision'].log_var[0, dim].exp()) == pytest.approx(left, rel=1e-3)
    error = {how: (g.mean - z).square().mean(dim=0) for how, g in fused.items()}
    for how, g in fused.items():
        assert torch.allclose(error[how], g.log_var[0].exp(), rtol=0.05)
        assert how == 'precision' or bool((error['precision'] < 0.97 * error[how]).all())


def test_fusion_says_what_is_wrong():
    with pytest.raises(ValueError, match="how='median' is no way"):
        fuse(draw(2, 3), how='median')
    with pytest.raises(ValueError, match='at least one sensor'):
        fuse({})
    with pytest.raises(ValueError, match=r"seen must name the sensors \['a', 'b', 'c'\]"):
        fuse(draw(2, 3), {'a': torch.ones(2)})


def test_a_head_keeps_its_bounds_and_its_gradient():
    torch.manual_seed(0)
    head = GaussianHead(8, 6, log_var_bounds=(-5, 3))
    start = head(torch.randn(7, 8))
    assert torch.equal(start.log_var, torch.full((7, 6), -1.0))
    assert torch.allclose(start.mean.square().mean(dim=-1), torch.ones(7))
    for bias in (-200.0, 200.0):
        torch.nn.init.constant_(head.log_var[-1].bias, bias)
        head.zero_grad()
        log_var = head(torch.randn(7, 8)).log_var
        assert bool(((log_var >= -5) & (log_var <= 3)).all())
        log_var.sum().backward()
        assert bool((head.log_var[-1].bias.grad > 0).all())


def test_a_head_stays_float32_under_autocast():
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = GaussianHead(8, 6)(torch.randn(7, 8, dtype=torch.bfloat16))
    assert found.mean.dtype == found.log_var.dtype == torch.float32


@pytest.mark.parametrize('bounds', [(1, 1), (2, -2), (-math.inf, 0)])
def test_bounds_must_rise(bounds):
    with pytest.raises(ValueError, match='log_var_bounds'):
        GaussianHead(4, 2, log_var_bounds=bounds)


def test_reliability_of_true_and_of_false_variances():
    torch.manual_seed(0)
    log_var = torch.randn(200, 100)
    error = (0.5 * log_var).exp() * torch.randn(200, 100)
    curve = reliability(error, log_var, bins=5)
    assert bool((curve.predicted.diff() > 0).all())
    assert torch.allclose(curve.observed, curve.predicted, rtol=0.05)
    assert curve.ence < 0.03
    # Twice too sure: the error is once the prediction too large
    assert float(reliability(2 * error, log_var, bins=5).ence) == pytest.approx(1, abs=0.06)


def test_reliability_needs_a_value_for_each_bin():
    with pytest.raises(ValueError, match='bins=10'):
        reliability(torch.ones(9), torch.ones(9))
