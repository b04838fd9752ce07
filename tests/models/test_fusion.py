# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What every segmenter keeps, and what each way of fusion is."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from torchgeo_anysensor.models import (
    Attend,
    Concatenate,
    DecisionFusion,
    EarlyFusion,
    Harmonised,
    LateFusion,
    PixelRegression,
    RandomConvolutions,
    UNet,
    UNetScratch,
    segment,
    to_grid,
)
from torchgeo_anysensor.models.fusion import drop_sensors, sensor_inputs

S2, L8 = 'sentinel2_l2a', 'landsat_c2l2'
S2_10M = [0.4927, 0.5598, 0.6646, 0.8328]
S2_20M = [0.7041, 0.7405, 0.7828, 0.8647, 1.6137, 2.2024]
OLI = [0.443, 0.482, 0.561, 0.655, 0.865, 1.609, 2.201]
BANDS = {S2: 10, L8: 7}
SIZE = (12, 12)  # 120 m at 10 m


class Tiny(nn.Module):
    """A network of the test's own, to be swapped in."""

    def __init__(self, in_channels, out_channels, *, width=8):
        super().__init__()
        self.init_args = {'width': width}
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, out_channels, 1),
        )

    def forward(self, x):
        return self.layers(x)


def fitted(model):
    """A floor as if it had been fitted."""
    for tensor in (*model.regression.parameters(), *model.buffers()):
        if not tensor.any():
            nn.init.normal_(tensor, std=0.3)
    return model


SEGMENTERS = {
    'early': lambda: EarlyFusion(BANDS, 3, network=Tiny),
    'early_unet': lambda: EarlyFusion(BANDS, 3),
    'late_concat': lambda: LateFusion(BANDS, 3, network=Tiny, features=8),
    'late_attend': lambda: LateFusion(BANDS, 3, network=Tiny, fuse=Attend, features=8),
    'decision': lambda: DecisionFusion(BANDS, 3, network=Tiny),
    'scratch': lambda: UNetScratch(3, network=Tiny),
    'harmonised': lambda: Harmonised(3, network=Tiny),
    'regression': lambda: fitted(PixelRegression(3, BANDS)),
    'regression_common': lambda: fitted(PixelRegression(3)),
    'convolutions': lambda: fitted(RandomConvolutions(3, BANDS, filters=4)),
}


@pytest.fixture(params=SEGMENTERS)
def segmenter(request):
    torch.manual_seed(0)
    return SEGMENTERS[request.param]().eval()


@pytest.fixture
def sensors(make_view):
    def view(wavelengths, res, seed, **offset):
        made = make_view(len(wavelengths), size=(round(120 / res),) * 2, res=res, seed=seed)
        made['wavelength'] = torch.tensor(wavelengths)
        return made | {key: torch.full((2,), value) for key, value in offset.items()}

    return {
        S2: (view(S2_10M, 10.0, 1), view(S2_20M, 20.0, 2)),
        L8: (view(OLI, 30.0, 3, dx=15.0, dy=-15.0),),
    }


def changed(sensors, name, change):
    """The same with each view of one sensor changed."""
    return sensors | {name: tuple(view | change(view) for view in sensors[name])}


def position_view(make_view, *, res, extent, dx=0.0, dy=0.0):
    """A view whose two bands are the easting and northing of the pixel's centre."""
    n = round(extent / res)
    view = make_view(2, size=(n, n), res=res)
    steps = (torch.arange(n) + 0.5) * res
    view['image'][:, 0] = dx + steps
    view['image'][:, 1] = (dy - steps)[:, None]
    return view | {'dx': torch.full((2,), dx), 'dy': torch.full((2,), dy)}


@pytest.mark.parametrize(('dx', 'dy'), [(0, 0), (15, 0), (0, -15), (-15, 15), (7.5, -4)])
@pytest.mark.parametrize(('res', 'n'), [(30, 36), (30, 12), (30, 6), (20, 12), (10, 12)])
def test_bands_land_where_they_lie(make_view, res, n, dx, dy):
    view = position_view(make_view, res=float(res), extent=360.0, dx=float(dx), dy=float(dy))
    cell = 360 / n
    centres = (torch.arange(n) + 0.5) * cell
    image = to_grid([view], (n, n)).image[1]
    inside = slice(math.ceil(30 / cell) + 1, n - math.ceil(30 / cell) - 1)
    east, north = (image[band, inside, inside] for band in (0, 1))
    # Halves of pixels of 20 m count for cells of 30 m, though their centres lie elsewhere
    atol = 2.0 if (res, n) == (20, 12) else 1e-3
    assert east.numel()
    assert_close(east, centres[inside].expand_as(east), atol=atol, rtol=0)
    assert_close(north, -centres[inside, None].expand_as(north), atol=atol, rtol=0)


def test_rows_of_a_batch_have_their_own_offset(make_view):
    views = [position_view(make_view, res=30.0, extent=360.0, dx=dx) for dx in (0.0, 15.0)]
    both = views[0] | {
        key: torch.stack([view[key][0] for view in views]) for key in ('image', 'valid', 'dx', 'dy')
    }
    image = to_grid([both], (36, 36)).image[:, :, 4:-4, 4:-4]
    assert_close(image[0], image[1], atol=1e-3, rtol=0)


def test_own_grid_is_left_untouched(make_view):
    view = make_view(3)
    view['valid'][0, 2:5, 3] = False
    raster = to_grid([view], (12, 12))
    assert torch.equal(raster.image, view['image'] * view['valid'][:, None])
    assert torch.equal(raster.seen, view['valid'][:, None].expand(-1, 3, -1, -1).float())


def test_average_is_by_area_and_of_valid_pixels_alone(make_view):
    view = make_view(1, size=(3, 3), res=20.0)
    view['image'][0, 0] = torch.tensor([[1.0, 2, 9], [3, 4, 9], [9, 9, 9]])
    # The cell of 30 m holds one whole pixel of 20 m, two halves and a quarter
    assert to_grid([view], (2, 2)).image[0, 0, 0, 0] == pytest.approx(
        (4 * 1 + 2 * 2 + 2 * 3 + 4) / 9
    )
    view['valid'][0, 0, 0] = False
    raster = to_grid([view], (2, 2))
    assert raster.image[0, 0, 0, 0] == pytest.approx((2 * 2 + 2 * 3 + 4) / 5)
    assert raster.seen[0, 0, 0, 0] == pytest.approx(5 / 9)


def test_resampling_does_not_lose_digits_to_mixed_precision(make_view):
    view = make_view(2, size=(4, 4), res=30.0)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(to_grid([view], SIZE).image, to_grid([view], SIZE).image.float())
        mixed = to_grid([view], SIZE).image
    assert torch.equal(mixed, to_grid([view], SIZE).image)


@torch.no_grad()
def test_map_has_the_size_asked_for(segmenter, sensors):
    for size in (SIZE, (6, 6), (24, 24)):
        logits = segment(segmenter, sensors, size)
        assert logits.shape == (2, 3, *size)
        assert logits.isfinite().all()
        assert logits.std() > 0


@torch.no_grad()
@pytest.mark.parametrize('name', [S2, L8])
@pytest.mark.parametrize('value', [math.nan, 1e4])
def test_what_is_not_valid_changes_nothing(segmenter, sensors, name, value):
    def hide(view):
        valid = view['valid'].clone()
        valid[:, 1:3, 2] = False
        return {'valid': valid}

    hidden = changed(sensors, name, hide)
    other = changed(
        hidden, name, lambda v: {'image': torch.where(v['valid'][:, None], v['image'], value)}
    )
    expected = segment(segmenter, hidden, SIZE)
    assert torch.equal(segment(segmenter, other, SIZE), expected)
    assert not torch.allclose(segment(segmenter, sensors, SIZE), expected)


@torch.no_grad()
@pytest.mark.parametrize('name', [S2, L8])
def test_absent_sensor_is_as_one_that_is_not_given(segmenter, sensors, name):
    unseen = changed(sensors, name, lambda v: {'valid': torch.zeros_like(v['valid'])})
    alone = {other: views for other, views in sensors.items() if other != name}
    expected = segment(segmenter, alone, SIZE).softmax(dim=1)
    assert_close(segment(segmenter, unseen, SIZE).softmax(dim=1), expected)
    assert not torch.allclose(segment(segmenter, sensors, SIZE).softmax(dim=1), expected)


@torch.no_grad()
def test_row_alone_equals_row_in_batch(segmenter, sensors):
    keys = ('image', 'valid', 'dx', 'dy')
    first = changed(
        changed(sensors, S2, lambda v: {k: v[k][:1] for k in keys}),
        L8,
        lambda v: {k: v[k][:1] for k in keys},
    )
    expected = segment(segmenter, sensors, SIZE)[:1]
    assert_close(segment(segmenter, first, SIZE), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_order_of_the_sensors_does_not_matter(segmenter, sensors):
    backwards = dict(reversed(sensors.items()))
    assert_close(segment(segmenter, backwards, SIZE), segment(segmenter, sensors, SIZE))


@torch.no_grad()
def test_nothing_seen_is_finite(segmenter, sensors):
    for name in sensors:
        sensors = changed(sensors, name, lambda v: {'valid': torch.zeros_like(v['valid'])})
    assert segment(segmenter, sensors, SIZE).isfinite().all()


def test_every_parameter_learns(segmenter, sensors):
    if isinstance(segmenter, PixelRegression | RandomConvolutions):
        assert not any(p.requires_grad for p in segmenter.parameters())
        return
    segmenter.train().sensor_dropout = 0.0
    sum(d.logits.square().sum() for d in segmenter.decide(sensors, SIZE).values()).backward()
    silent = [n for n, p in segmenter.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def test_other_number_of_bands_is_said(sensors):
    model = EarlyFusion({S2: 10, L8: 8}, 3, network=Tiny)
    with pytest.raises(ValueError, match='landsat_c2l2: the model was made for 8 bands, the batch'):
        segment(model, sensors, SIZE)


def test_undeclared_sensor_is_said(sensors):
    model = EarlyFusion({S2: 10}, 3, network=Tiny)
    with pytest.raises(ValueError, match=r"made for \['sentinel2_l2a'\], the batch has \['landsat"):
        segment(model, sensors, SIZE)


def test_views_of_other_ground_are_said(segmenter, sensors, make_view):
    with pytest.raises(ValueError, match='must agree'):
        segment(segmenter, sensors | {L8: (make_view(7, size=(5, 5), res=30.0),)}, SIZE)


def test_dropout_leaves_each_sample_a_sensor_that_saw_it(sensors):
    torch.manual_seed(0)
    sensors = changed(
        sensors, L8, lambda v: {'valid': v['valid'] & torch.tensor([True, False])[:, None, None]}
    )
    inputs = sensor_inputs(sensors, SIZE, BANDS)
    seen = torch.zeros(2, 2)
    for _ in range(400):
        kept = torch.stack(
            [x[:, -1].flatten(1).any(dim=1) for x in drop_sensors(inputs, 0.4).values()]
        )
        assert kept.any(dim=0).all()
        seen += kept
    # Both dropped has probability 0.16, shared by the two: 0.6 + 0.08
    assert_close(seen / 400, torch.tensor([[0.68, 1.0], [0.68, 0.0]]), atol=0.07, rtol=0)


def test_dropout_is_for_training_alone(sensors):
    torch.manual_seed(0)
    model = EarlyFusion(BANDS, 3, network=Tiny, sensor_dropout=0.9)
    maps = [segment(model.train(), sensors, SIZE) for _ in range(4)]
    assert any(not torch.equal(maps[0], other) for other in maps[1:])
    maps = [segment(model.eval(), sensors, SIZE) for _ in range(4)]
    assert all(torch.equal(maps[0], other) for other in maps[1:])


@torch.no_grad()
@pytest.mark.parametrize('weights', [None, {S2: 3.0}])
def test_decision_fusion_is_the_mean_of_its_parts(sensors, weights):
    model = DecisionFusion(BANDS, 3, network=Tiny, weights=weights).eval()
    valid = torch.ones(2, 4, 4, dtype=torch.bool)
    valid[:, 0] = False  # the northern 30 m and, by interpolation, no more
    sensors = changed(sensors, L8, lambda v: {'valid': valid, 'dx': 0 * v['dx'], 'dy': 0 * v['dy']})
    s2, l8 = (segment(model, {name: sensors[name]}, SIZE).softmax(dim=1) for name in (S2, L8))
    share = 3 / 4 if weights else 1 / 2
    found = segment(model, sensors, SIZE).softmax(dim=1)
    assert_close(found[:, :, 4:], (share * s2 + (1 - share) * l8)[:, :, 4:])
    assert_close(found[:, :, 0], s2[:, :, 0])


def test_parts_of_decision_fusion_learn_alone(sensors):
    model = DecisionFusion(BANDS, 3, network=Tiny)
    model.decide(sensors, SIZE)[S2].logits.sum().backward()
    assert all(p.grad is None for p in model.networks[L8].parameters())
    with pytest.raises(ValueError, match='weights must be positive'):
        DecisionFusion(BANDS, 3, network=Tiny, weights={S2: 0.0})


@torch.no_grad()
def test_attention_looks_at_who_saw_the_pixel():
    attend = Attend(3, 8)
    x, seen = torch.randn(2, 3, 8, 4, 4), torch.ones(2, 3, 4, 4, dtype=torch.bool)
    seen[:, 1, :2] = False
    other = x.clone()
    other[:, 1] += 1
    before, after = attend(x, seen), attend(other, seen)
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert not torch.isclose(before[:, :, 2:], after[:, :, 2:]).all(dim=1).any()


@torch.no_grad()
def test_concatenation_leaves_out_who_saw_nothing_of_the_sample():
    join = Concatenate(2, 8)
    x, seen = torch.randn(2, 2, 8, 4, 4), torch.ones(2, 2, 4, 4, dtype=torch.bool)
    seen[0, 1] = False
    other = x.clone()
    other[:, 1] += 1
    before, after = join(x, seen), join(other, seen)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


@pytest.mark.parametrize('size', [(16, 16), (13, 21)])
def test_unet_sees_single_pixels(size):
    """It learns the sign of noise, where each pixel is for itself."""
    torch.manual_seed(0)
    net, noise = UNet(1, 1, decoder_channels=(64, 32, 32, 32)), torch.randn(12, 1, *size)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        logits = net(noise[:8])
        F.binary_cross_entropy_with_logits(logits, (noise[:8] > 0).float()).backward()
        optimizer.step()
    right = (net(noise[8:]) > 0) == (noise[8:] > 0)
    assert right.float().mean() > 0.85


def test_unet_has_no_idle_parameters_and_no_batch_norm():
    net = UNet(3, 4)
    net(torch.randn(2, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())


def test_unet_takes_a_resnet_alone():
    assert sum(p.numel() for p in UNet(3, 4, encoder_name='resnet34').parameters()) > 8e6
    with pytest.raises(ValueError, match="encoder_name='vgg11' is no ResNet"):
        UNet(3, 4, encoder_name='vgg11')
