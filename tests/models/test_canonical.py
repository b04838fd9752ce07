# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What sensors agree about comes first, and is found from the features alone."""

import pytest
import torch
from torch.testing import assert_close

from torchgeo_anysensor.losses import scatter
from torchgeo_anysensor.models import (
    AnySensorViT,
    CanonicalEncoder,
    CrossSensorMoments,
    SensorEncoder,
    encode,
)
from torchgeo_anysensor.models.base import Features

SIGNAL = torch.tensor([25.0, 9.0, 1.0, 0.0])
SENSORS = ('a', 'b', 'c')


class Given(SensorEncoder):
    """Its tokens are the pixels, of one band for each feature."""

    def __init__(self, dim=4):
        super().__init__()
        self.embed_dim = dim
        self.init_args = {'dim': dim}

    def forward(self, views, *, token_m=None):
        image = views[0]['image']
        return Features(
            image.flatten(2).mT,
            image.mean(dim=(2, 3)),
            tuple(image.shape[-2:]),
            views[0]['valid'].flatten(1),
        )


def features(n=20_000, seed=0):
    """Of each sensor: what is shared, its own noise of variance 1, and a mix of the two axes."""
    generator = torch.Generator().manual_seed(seed)
    mix, *draws = torch.randn(5, n, 4, generator=generator)
    shared = draws[0] * SIGNAL.sqrt()
    return {name: (shared + own) @ mix[:4] + 3 for name, own in zip(SENSORS, draws[1:])}


def moments_of(embeddings, present=None):
    found = scatter(embeddings, present)
    moments = CrossSensorMoments(found.mean.shape[0])
    moments.update(mean=found.mean, total=found.total, within=found.within)
    return moments


def test_finds_how_far_sensors_agree():
    encoder = CanonicalEncoder(Given()).fit(moments_of(features()))
    assert_close(encoder.signal, SIGNAL, rtol=0.05, atol=0.05)


def test_features_are_the_posterior_mean_of_what_is_shared():
    """In its own axes, a feature is ``signal / (1 + signal)`` of the token, and a tenth at least."""
    found = features()
    encoder = CanonicalEncoder(Given()).fit(moments_of(found))
    out = {name: (x - encoder.mean) @ encoder.weight for name, x in found.items()}
    apart = out['a'] - out['b']  # of two errors
    known = (SIGNAL / (1 + SIGNAL)).clamp(min=0.1)
    deviation = (apart.var(dim=0) / 2).sqrt()
    assert_close(deviation / deviation[0], known / known[0], rtol=0.05, atol=0)
    size = torch.stack(list(out.values())).square().mean()
    assert_close(size, torch.tensor(1.0), rtol=0.02, atol=0)
    correlation = torch.corrcoef(out['a'].T)
    assert (correlation - torch.eye(len(SIGNAL))).abs().max() < 0.05


def test_scatter_is_that_of_a_loop():
    found = features(n=50)
    generator = torch.Generator().manual_seed(1)
    present = {name: torch.rand(50, generator=generator) < 0.6 for name in SENSORS}
    found['b'][~present['b']] = torch.nan
    rows, within, degrees = [], torch.zeros(4, 4), 0
    for i in range(50):
        here = torch.stack([found[name][i] for name in SENSORS if present[name][i]] or [SIGNAL])
        if sum(bool(present[name][i]) for name in SENSORS) < 2:
            continue
        apart = here - here.mean(dim=0)
        within += apart.T @ apart
        degrees += len(here) - 1
        rows.append(here)
    together = torch.cat(rows)
    result = scatter(found, present)
    assert result.places == len(rows)
    assert_close(result.mean, together.mean(dim=0))
    assert_close(result.total, torch.cov(together.T, correction=0))
    assert_close(result.within, within / degrees)


def test_places_of_one_sensor_have_no_part():
    found = features(n=4)
    present = {name: torch.full((4,), name == 'a') for name in SENSORS}
    result = scatter(found, present)
    assert result.places == 0
    assert not result.total.any()
    assert not result.within.any()


def test_moments_are_means_first_and_forget_then():
    moments = CrossSensorMoments(1, momentum=0.25)
    one = torch.ones(1, 1)
    for value in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
        moments.update(mean=value * one[0], total=value * one, within=value * one)
    assert_close(moments.mean, torch.tensor([0.75 * (0.75 * 2.5 + 1.25) + 1.5]))


def test_small_batches_make_the_moments_of_all():
    """Of batches with few places, much of the variance is that of their means."""
    found, moments = features(n=400), CrossSensorMoments(4, momentum=0.0)
    for rows in torch.arange(400).split(4):
        it = scatter({name: x[rows] for name, x in found.items()})
        moments.update(mean=it.mean, total=it.total, within=it.within)
    whole = scatter(found)
    assert_close(moments.total, whole.total, rtol=1e-3, atol=1e-3)
    assert_close(moments.within, whole.within, rtol=1e-3, atol=1e-3)


def test_an_encoder_that_saw_no_two_sensors_is_told_so():
    with pytest.raises(ValueError, match='0 batches'):
        CanonicalEncoder(Given()).fit(CrossSensorMoments(4))
    with pytest.raises(ValueError, match='4 features'):
        CanonicalEncoder(Given(dim=5)).fit(moments_of(features(n=10)))


def test_pooled_is_the_mean_of_what_was_seen(make_view):
    encoder = CanonicalEncoder(Given()).fit(moments_of(features()))
    view = make_view()
    view['valid'][0, :6] = False
    found = encode(encoder, view)
    assert_close(found.pooled[0], found.tokens[0][found.valid[0]].mean(dim=0))
    assert_close(found.tokens, (view['image'].flatten(2).mT - encoder.mean) @ encoder.weight)


def test_evaluation_is_in_float32_under_autocast(make_view):
    encoder = CanonicalEncoder(AnySensorViT(32, depth=1, num_heads=2, band_dim=8, detail_dim=4))
    view = make_view()
    exact = encode(encoder.eval(), view, detail_m=60).tokens
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(encode(encoder, view).tokens, exact)
        assert not torch.equal(encode(encoder.train(), view).tokens, exact)
