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
    EncoderMoments,
    SensorEncoder,
    beside_detail,
    encode,
)
from torchgeo_anysensor.models.base import Features, _rows
from torchgeo_anysensor.models.canonical import PRIVATE, CanonicalMap
from torchgeo_anysensor.models.met_bands import MetBands
from torchgeo_anysensor.models.moments import RandomFeatures
from torchgeo_anysensor.types import take_bands

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


def take_in(moments, embeddings):
    """As a task does."""
    plain = scatter(embeddings)
    moments.settle(mean=plain.mean, total=plain.total, within=plain.within)
    found = scatter({name: moments.features(x) for name, x in embeddings.items()})
    moments.update(mean=found.mean, total=found.total, within=found.within)


def fitted(embeddings, **options):
    """The map of features in one group."""
    groups = [next(iter(embeddings.values())).shape[1]]
    moments, made = CrossSensorMoments(groups, **options), CanonicalMap(groups, **options)
    take_in(moments, embeddings)
    made.fit(moments)
    return made


def test_finds_how_far_sensors_agree():
    assert_close(fitted(features(), random=0).signal, SIGNAL, rtol=0.05, atol=0.05)


def test_features_are_the_posterior_mean_of_what_is_shared():
    """In its own axes, a feature is ``signal / (1 + signal)`` of what was seen; the rest follows."""
    found = features()
    made = fitted(found, random=0)
    out = {name: made(x) for name, x in found.items()}
    shared = {name: x[:, :4] for name, x in out.items()}
    apart = shared['a'] - shared['b']  # of two errors
    known = SIGNAL / (1 + SIGNAL)
    deviation = (apart.var(dim=0) / 2).sqrt()
    assert_close(deviation / deviation[0], known / known[0], rtol=0.05, atol=0.03)
    size = torch.stack(list(shared.values())).square().mean()
    assert_close(size, torch.tensor(1.0), rtol=0.02, atol=0)
    correlation = torch.corrcoef(shared['a'][:, :3].T)
    assert (correlation - torch.eye(3)).abs().max() < 0.05
    assert_close(out['a'][:, 4:], PRIVATE * made.features.standardise(found['a']))


def test_knows_how_far_sensors_are_apart_in_what_it_gives():
    found = features()
    made = fitted(found, random=0)
    out = torch.stack([made(x) for x in found.values()])
    assert_close(out.var(dim=0).mean(dim=0), made.own, rtol=0.03, atol=1e-3 * float(made.own.max()))


def test_what_sensors_agree_about_may_be_bent():
    """Two sensors see the same number, each by another curve: no linear map of these agrees."""
    x = torch.linspace(-2, 2, 4000)[
        torch.randperm(4000, generator=torch.Generator().manual_seed(0))
    ]
    noise = 0.05 * torch.randn(2, 4000, 2, generator=torch.Generator().manual_seed(1))
    bent = {
        'a': torch.stack([x**2, x], dim=1) + noise[0],
        'b': torch.stack([x**2, torch.sign(x) * x**2], dim=1) + noise[1],
    }
    signal = {random: float(fitted(bent, random=random).signal[1]) for random in (0, 64)}
    assert signal[64] > 3 * signal[0]


def test_functions_look_at_one_group_alone():
    features = RandomFeatures([3, 2], count=5)
    x = torch.randn(4, 5)
    moved = features(x + torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0])) - features(x)
    assert not moved[:, 5:10].any()
    assert moved[:, 10:].any(dim=0).all()
    assert features.out_dim == moved.shape[1]


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
    moments = CrossSensorMoments([1], random=0, momentum=0.25)
    one = torch.ones(1, 1)
    for value in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
        moments.update(mean=value * one[0], total=value * one, within=value * one)
    assert_close(moments.mean, torch.tensor([0.75 * (0.75 * 2.5 + 1.25) + 1.5]))


def test_batches_make_the_moments_of_all():
    """But for what the means of batches differ by, a fortieth here."""
    found, moments = features(n=4000), CrossSensorMoments([4], random=0, momentum=0.0)
    for rows in torch.arange(4000).split(40):
        it = scatter({name: x[rows] for name, x in found.items()})
        moments.update(mean=it.mean, total=it.total, within=it.within)
    whole = scatter(found)
    assert_close(moments.mean, whole.mean)
    assert (moments.total - whole.total).norm() < 0.04 * whole.total.norm()
    assert_close(moments.within, whole.within, rtol=1e-3, atol=1e-3)


def test_the_size_of_features_is_that_of_all_batches():
    found, moments = features(n=4000), CrossSensorMoments([4], momentum=0.0)
    for rows in torch.arange(4000).split(40):
        take_in(moments, {name: x[rows] for name, x in found.items()})
    rows = torch.cat(list(found.values()))
    assert_close(moments.features.centre, rows.mean(dim=0), rtol=1e-3, atol=1e-3)
    assert_close(moments.features.spread, rows.std(dim=0, correction=0), rtol=0.02, atol=0)


def test_an_encoder_that_moves_makes_no_agreement():
    """The features of all places go one way from batch to batch, as weights do in training."""
    still, moving = (CrossSensorMoments([4], momentum=0.1) for _ in range(2))
    found = features(n=4000)
    for step, rows in enumerate(torch.arange(4000).split(100)):
        batch = {name: x[rows] for name, x in found.items()}
        take_in(still, batch)
        take_in(moving, {name: x + step * torch.ones(4) for name, x in batch.items()})
    maps = [CanonicalMap([4]) for _ in range(2)]
    for made, moments in zip(maps, (still, moving)):
        made.fit(moments)
    assert_close(moving.plain_total, still.plain_total, rtol=1e-5, atol=1e-5)
    assert maps[1].signal[0] < 1.2 * maps[0].signal[0]


def test_an_encoder_that_saw_no_two_sensors_is_told_so():
    with pytest.raises(ValueError, match='0 batches'):
        CanonicalEncoder(Given()).fit(EncoderMoments(Given()))
    other = CrossSensorMoments([4], random=0)
    take_in(other, features(n=10))
    with pytest.raises(ValueError, match='4 features and 1 batches'):
        CanonicalMap([5], random=0).fit(other)
    fine = AnySensorViT(32, depth=1, num_heads=2, band_dim=8, detail_dim=4)
    coarse = EncoderMoments(AnySensorViT(32, depth=1, num_heads=2, band_dim=8))
    take_in(coarse.tokens, {name: torch.randn(9, 32) for name in SENSORS})
    with pytest.raises(ValueError, match='no moments'):
        CanonicalEncoder(fine).fit(coarse)


def encoder_of(embeddings):
    """The canonical encoder of :class:`Given`."""
    moments = EncoderMoments(Given())
    take_in(moments.tokens, embeddings)
    return CanonicalEncoder(Given()).fit(moments)


def test_pooled_is_the_mean_of_what_was_seen(make_view):
    encoder = encoder_of(features())
    view = make_view()
    view['valid'][0, :6] = False
    found = encode(encoder, view)
    assert_close(found.pooled[0], found.tokens[0][found.valid[0]].mean(dim=0))
    assert_close(found.tokens, encoder.tokens(view['image'].flatten(2).mT))
    assert found.tokens.shape[-1] == encoder.embed_dim


def with_detail():
    """A canonical encoder with maps of random moments."""
    encoder = CanonicalEncoder(AnySensorViT(32, depth=1, num_heads=2, band_dim=8, detail_dim=4))
    moments = EncoderMoments(encoder.encoder)
    for each, dim in ((moments.tokens, 32), (moments.detail, 36)):
        shared = torch.randn(200, dim)
        take_in(each, {name: shared + 0.1 * torch.randn(200, dim) for name in SENSORS})
    return encoder.fit(moments).eval()


@torch.no_grad()
def test_detail_is_read_beside_the_tokens(make_view):
    encoder, view = with_detail(), make_view()
    raw, found = (encode(e, view, detail_m=20) for e in (encoder.encoder, encoder))
    assert found.detail.shape == (2, encoder.detail_dim, *raw.detail.shape[-2:])
    assert_close(found.detail, encoder.detail([view], detail_m=20))
    tokens = raw.tokens.unflatten(1, raw.grid).movedim(-1, 1)
    tokens = torch.nn.functional.interpolate(tokens, raw.detail.shape[-2:], mode='bilinear')
    beside = torch.cat([tokens, raw.detail], dim=1).movedim(1, -1)
    assert_close(beside_detail(raw).movedim(1, -1), beside)
    shared = (encoder.fine.features(beside) - encoder.fine.mean) @ encoder.fine.weight
    assert_close(found.detail[:, : shared.shape[-1]], shared.movedim(-1, 1))
    for part in encoder.encoder.cells.parameters():  # tokens have a say in the detail
        part.add_(0.3 * torch.randn_like(part))
    assert (encode(encoder, view, detail_m=20).detail - found.detail).abs().max() > 1e-2


def test_comes_back_from_a_folder_with_its_maps(make_view, tmp_path):
    encoder = with_detail()
    encoder.save_pretrained(tmp_path)
    back = SensorEncoder.from_pretrained(tmp_path)
    found, again = (encode(e, make_view(), detail_m=20) for e in (encoder, back))
    assert torch.equal(found.tokens, again.tokens)
    assert torch.equal(found.detail, again.detail)
    assert back.detail_parts() == [back.encoder.fine]


def bands_alone(view, *places):
    keep = torch.zeros(view['image'].shape[1], dtype=torch.bool)
    keep[[*places]] = True
    return take_bands(view, keep)


@pytest.mark.filterwarnings('ignore:bands at')
@torch.no_grad()
def test_bands_unlike_those_that_were_met_are_not_read(make_view):
    encoder, view = with_detail(), make_view(4)
    view['wavelength'] = torch.tensor([0.50, 0.70, 0.84, 1.60])

    def read(*views):
        found = encode(encoder, views, detail_m=20)
        return torch.cat([found.tokens.flatten(), found.detail.flatten()])

    everything = read(view)
    assert torch.equal(everything, read(view))
    encoder.bands.meet(torch.tensor([9.9]))
    assert torch.equal(read(view), everything)  # none is known, and so all are read
    encoder.bands.meet(torch.tensor([[0.49, 0.86], [0.51, 0.86]]))
    assert encoder.bands.knows(view['wavelength']).tolist() == [True, False, True, False]
    with pytest.warns(
        UserWarning, match=r'bands at 0\.70, 1\.60 um are not read.*canonical=False'
    ) as told:
        found = read(view)
    assert told[0].filename == __file__
    assert_close(found, read(bands_alone(view, 0, 2)))
    unknown = bands_alone(view, 1, 3)
    assert_close(read(view, unknown), read(view))
    by_sample = view | {'wavelength': view['wavelength'].expand(2, -1)}
    assert_close(read(by_sample), read(view))
    encoder.bands.meet(view['wavelength'])
    assert torch.equal(read(view), everything)


@pytest.mark.filterwarnings('ignore:bands at')
@torch.no_grad()
@pytest.mark.parametrize('case', ['seen by one of them', 'of two platforms'])
def test_what_is_not_read_of_a_sample_does_not_hang_on_the_others(make_view, case):
    encoder = with_detail()
    encoder.bands.meet(torch.tensor([0.50, 0.84]))
    views = [make_view(2, seed=1), make_view(2, seed=2)]
    views[0]['wavelength'] = torch.tensor([0.50, 0.84])
    views[1]['wavelength'] = torch.tensor([0.70, 1.60])
    views[0]['valid'][1] = False
    if case == 'of two platforms':
        views = [views[1] | {'wavelength': torch.tensor([[0.50, 0.84], [0.50, 0.70]])}]
    whole = encode(encoder, views, detail_m=20)
    for row in range(2):
        alone = encode(encoder, [_rows(view, slice(row, row + 1)) for view in views], detail_m=20)
        assert_close(whole.tokens[row], alone.tokens[0])
        assert_close(whole.detail[row], alone.detail[0])
        assert whole.valid[row].all()
        assert alone.valid.all()


def test_a_band_is_met_up_to_three_percent_away():
    bands = MetBands()
    assert not bands.knows(torch.tensor([0.3, 0.5, 15.0])).any()
    bands.meet(torch.tensor([0.3, 0.5, 15.0]))
    near = torch.tensor([0.3, 0.308, 0.5 / 1.028, 0.5 * 1.028, 14.6, 15.0])
    far = torch.tensor([0.311, 0.5 / 1.034, 0.5 * 1.034, 14.4])
    assert bands.knows(near).all()
    assert not bands.knows(far).any()


def test_evaluation_is_in_float32_under_autocast(make_view):
    encoder = CanonicalEncoder(AnySensorViT(32, depth=1, num_heads=2, band_dim=8, detail_dim=4))
    view = make_view()
    exact = encode(encoder.eval(), view, detail_m=60).tokens
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(encode(encoder, view).tokens, exact)
        assert not torch.equal(encode(encoder.train(), view).tokens, exact)
