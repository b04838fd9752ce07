# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What is known of an acquisition, and several acquisitions at once."""

import math

import pytest
import torch
from torch.testing import assert_close

from torchgeo_anysensor.models import AnySensorViT, encode
from torchgeo_anysensor.models.codes import SECONDS_PER_YEAR, known_facts

FACTS = {'time': 't', 'place': 'lon', 'level': 'level'}


@pytest.fixture
def build(awake):
    def made(*facts):
        torch.manual_seed(0)
        return awake(AnySensorViT(32, depth=1, num_heads=2, band_dim=16, facts=facts)).eval()

    return made


def told(view, **facts):
    """The view with facts, the same for all samples."""
    known = {'t': 0.3 * SECONDS_PER_YEAR, 'lon': 5.0, 'lat': 51.0, 'level': 1.0} | facts
    each = {k: torch.full((2,), v, dtype=torch.float64) for k, v in known.items()}
    return {**view, **each}


@pytest.mark.parametrize('fact', FACTS)
def test_an_encoder_listens_to_what_it_was_made_to(build, make_view, fact):
    view = make_view()
    changed = told(view, **{FACTS[fact]: 0.0})
    encoder, others = build(fact), build(*(other for other in FACTS if other != fact))
    moved = encode(encoder, changed).tokens - encode(encoder, told(view)).tokens
    assert moved.abs().max() > 1e-2
    assert torch.equal(encode(others, changed).tokens, encode(others, told(view)).tokens)
    assert torch.equal(encode(build(), changed).tokens, encode(build(), view).tokens)


@pytest.mark.parametrize('fact', FACTS)
def test_what_is_not_known_is_learned(build, make_view, fact):
    encoder, view = build(fact), make_view()
    key = FACTS[fact]
    unknown = encode(encoder, told(view, **{key: math.nan}))
    if key != 't':  # every view has a time
        assert torch.equal(encode(encoder, view).tokens, unknown.tokens)
    assert (unknown.tokens - encode(encoder, told(view)).tokens).abs().max() > 1e-2
    unknown.tokens.square().sum().backward()
    grads = {n: p.grad for n, p in encoder.cells.acquisition.named_parameters()}
    assert grads[f'absent.{fact}'].any()
    assert not grads[f'maps.{fact}.weight'].any()  # and finite: not NaN


def test_the_year_is_a_circle(build, make_view):
    encoder, view = build('time'), make_view()
    dates = [encode(encoder, told(view, t=year * SECONDS_PER_YEAR)) for year in (0.1, 30.1, 0.6)]
    assert_close(dates[0].tokens, dates[1].tokens, atol=1e-4, rtol=0)
    assert (dates[0].tokens - dates[2].tokens).abs().max() > 1e-2


def test_facts_of_views_of_any_kind(make_view):
    view = make_view()
    assert known_facts(view)[:, 1:].isnan().all()
    expected = torch.tensor([[0.3, 5.0, 51.0, 1.0]] * 2)
    assert_close(known_facts(told(view, t=(30 + 0.3) * SECONDS_PER_YEAR)), expected)
    assert known_facts(told(view, level=2.0))[:, 3].isnan().all()  # there is none


def test_dates_keep_their_own_image(build, make_view):
    spring, summer = make_view(seed=1), make_view(seed=2)
    times = [0.3 * SECONDS_PER_YEAR, 0.5 * SECONDS_PER_YEAR]
    encoder = build('time')
    series = [told(view, t=t) for view, t in zip((spring, summer), times)]
    swapped = [told(view, t=t) for view, t in zip((spring, summer), times[::-1])]
    both = encode(encoder, series)
    assert_close(encode(encoder, series[::-1]).tokens, both.tokens, atol=1e-5, rtol=0)
    assert (encode(encoder, swapped).tokens - both.tokens).abs().max() > 1e-3


def test_a_date_that_is_dropped_leaves_no_trace(build, make_view):
    encoder = build('time', 'place', 'level')
    spring, summer = told(make_view(seed=1)), told(make_view(seed=2), t=0.0)
    hidden = {**summer, 'valid': torch.zeros_like(summer['valid'])}
    alone = encode(encoder, spring)
    assert_close(encode(encoder, [spring, hidden]).tokens, alone.tokens, atol=1e-5, rtol=0)
    assert_close(encode(encoder, [spring, hidden]).pooled, alone.pooled, atol=1e-5, rtol=0)
    assert (encode(encoder, [spring, summer]).tokens - alone.tokens).abs().max() > 1e-2


def test_facts_that_are_not_known_raise(build):
    with pytest.raises(ValueError, match='weather'):
        build('weather')
