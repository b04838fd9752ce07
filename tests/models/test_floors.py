# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Floors are fitted to the optimum, to the pixels that count, and alike for a seed."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from torchgeo_anysensor.models import (
    PixelRegression,
    RandomConvolutions,
    SoftmaxRegression,
    segment,
)
from torchgeo_anysensor.models.floors import _whitened
from torchgeo_anysensor.types import IGNORE_INDEX

SENSOR = 'sensor'


def points(n=300, features=4, classes=3, seed=0):
    """Clouds of points that overlap."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=generator)
    centres = torch.randn(classes, features, generator=torch.Generator().manual_seed(7))
    return 5 + 3 * (centres[y] + torch.randn(n, features, generator=generator)), y


def objective(model, x, y, penalty):
    z = (x.double() - model.mean) / model.std
    weight = model.linear.weight.double().requires_grad_()
    bias = model.linear.bias.double().requires_grad_()
    loss = F.cross_entropy(F.linear(z, weight, bias), y) + (penalty / 2 * weight.square()).sum()
    return loss, torch.autograd.grad(loss, (weight, bias))


@pytest.mark.parametrize('penalty', [1.0, 1e-2, 1e-4])
def test_gradient_is_zero_at_the_optimum(penalty):
    x, y = points()
    x = torch.cat([x, x.square(), torch.ones(len(x), 1)], dim=1)  # collinear, and a constant
    model = SoftmaxRegression(x.shape[1], 3)
    model.fit(x, y, penalties=[penalty])
    loss, gradients = objective(model, x, y, penalty)
    assert all(gradient.abs().max() < 1e-4 for gradient in gradients)
    best = {key: value.clone() for key, value in model.linear.state_dict().items()}
    for _ in range(20):
        for key, value in model.linear.state_dict().items():
            value.copy_(best[key] + 0.1 * torch.randn_like(value))
        assert objective(model, x, y, penalty)[0] > loss


def test_separable_classes_are_separated():
    x, y = points(classes=2)
    x = x + 100 * F.one_hot(y, 4)
    model = SoftmaxRegression(4, 2)
    model.fit(x, y, penalties=[1e-3])
    assert torch.equal(model.predict(x), y)


def test_penalty_has_the_least_loss_on_validation():
    x, y = points(40, features=20, classes=3)
    val = points(2000, features=20, classes=3, seed=1)
    losses = {}
    for penalty in (1.0, 1e-1, 1e-3, 1e-6):
        model = SoftmaxRegression(20, 3)
        model.fit(x, y, penalties=[penalty])
        losses[penalty] = float(F.cross_entropy(model(val[0]), val[1]))
    model = SoftmaxRegression(20, 3)
    best = min(losses, key=losses.get)
    assert model.fit(x, y, val=val, penalties=[*losses]) == best not in (1.0, 1e-6)
    assert float(F.cross_entropy(model(val[0]), val[1])) == pytest.approx(losses[best], rel=1e-3)


def test_noise_is_a_penalty_of_each_feature_in_its_own_unit():
    x, y = points()
    noise = torch.tensor([0.0, 0.5, 2.0, 10.0])
    model = SoftmaxRegression(4, 3)
    model.fit(x, y, penalties=[1e-2], noise=noise)
    each = 1e-2 + noise / 32 / model.std.square()
    assert all(gradient.abs().max() < 1e-4 for gradient in objective(model, x, y, each)[1])


def test_features_that_will_be_off_are_trusted_less():
    """One of two features tells more, and is off by much where it is read."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(4000) % 2
    x = (2 * y[:, None] - 1) * torch.tensor([1.0, 3.0]) + torch.randn(4000, 2, generator=generator)
    noise = torch.tensor([0.0, 36.0])
    read = x + noise.sqrt() * torch.randn(4000, 2, generator=generator)
    losses = []
    for known in (None, noise):
        model = SoftmaxRegression(2, 2)
        model.fit(x, y, penalties=[1e-4], noise=known)
        losses.append(float(F.cross_entropy(model(read), y)))
    assert losses[1] < 0.6 * losses[0]


def test_scale_of_a_feature_does_not_matter():
    x, y = points()
    models = [SoftmaxRegression(4, 3) for _ in range(2)]
    other = x * torch.tensor([1.0, 1e3, 1e-2, 1]) - 50
    models[0].fit(x, y, penalties=[1e-2])
    models[1].fit(other, y, penalties=[1e-2])
    assert_close(models[0](x), models[1](other), atol=1e-3, rtol=1e-3)


def test_nothing_to_fit_or_to_choose_by_is_said():
    x, y = points(6)
    with pytest.raises(ValueError, match='0 pixels'):
        SoftmaxRegression(4, 3).fit(x[:0], y[:0])
    with pytest.raises(ValueError, match='needs val'):
        SoftmaxRegression(4, 3).fit(x, y)


@pytest.fixture
def batches(make_view):
    """Two bands, of which the product alone tells the class; some pixels are not valid."""
    made = []
    for seed in range(3):
        view, mask = make_view(2, size=(16, 16), seed=seed), None
        mask = ((view['image'] - 0.5).square().sum(dim=1) > 0.13).long()
        view['valid'][:, :3] = False
        made.append(({SENSOR: (view,)}, mask))
    return made


def accuracy(model, batch):
    views, mask = batch
    right = segment(model, views, (16, 16)).argmax(dim=1) == mask
    return float(right[views[SENSOR][0]['valid']].float().mean())


@torch.no_grad()
def test_squares_of_the_bands_are_features(batches):
    model = PixelRegression(2, {SENSOR: 2})
    model.fit(batches[:2], batches[2:])
    assert accuracy(model, batches[2]) > 0.95
    linear = SoftmaxRegression(2, 2)
    x, y = model._pixels(batches[:2], 10_000)
    linear.fit(x[:, :2], y, penalties=[1e-4])
    assert (linear.predict(x[:, :2]) == y).float().mean() < 0.8


@pytest.mark.parametrize('build', [PixelRegression, RandomConvolutions])
def test_pixels_without_label_or_light_count_nowhere(batches, build):
    def fit(change):
        model = build(2, {SENSOR: 2}, **({'filters': 4} if build is RandomConvolutions else {}))
        data = [({SENSOR: (dict(v[SENSOR][0]),)}, m.clone()) for v, m in batches]
        for views, mask in data:
            change(views[SENSOR][0], mask)
        model.fit(data[:2], data[2:], penalties=[1e-3])
        return model.regression.linear.weight

    def nothing(view, mask):
        mask[:, :3] = IGNORE_INDEX

    def wrong_where_dark(view, mask):
        mask[:, :3] = 1 - mask[:, :3]
        image = view['image'].clone()
        image[:, :, :3] = torch.nan
        view['image'] = image

    assert torch.equal(fit(nothing), fit(wrong_where_dark))
    assert not torch.allclose(fit(nothing), fit(lambda view, mask: mask[:, 8:].fill_(IGNORE_INDEX)))


def test_no_more_pixels_than_asked_for(batches):
    model = PixelRegression(2, {SENSOR: 2})
    everything = model._pixels(batches, 10_000)
    assert len(everything[1]) == 3 * 2 * 13 * 16
    x, y = model._pixels(batches, 100)
    assert len(x) == len(y) == 100
    # A pixel keeps its class
    rows = {tuple(row.tolist()): int(c) for row, c in zip(*everything)}
    assert all(rows[tuple(row.tolist())] == int(c) for row, c in zip(x, y))


def convolutions(batches, seed=0):
    model = RandomConvolutions(2, {SENSOR: 2}, filters=8, scales=(1, 2), seed=seed)
    model.fit(batches[:2], batches[2:], penalties=[1e-2])
    return model


def test_random_convolutions_are_a_function_of_the_seed(batches):
    one, again, other = (convolutions(batches, seed) for seed in (3, 3, 4))
    for key, value in one.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    assert not torch.allclose(one.filters, other.filters)


def test_random_features_come_in_both_signs(batches):
    model = convolutions(batches)
    x = torch.randn(2, 3, 16, 16)
    features = model.features(x)
    assert features.shape == (2, 3 + 2 * 2 * 8, 16, 16)
    positive, negative = features[:, 3:11], features[:, 11:19]
    response = F.conv2d(F.pad(x, [1] * 4, mode='replicate'), model.filters[0], model.offsets[0])
    assert_close(positive - negative, response)
    assert ((positive == 0) | (negative == 0)).all()


@pytest.mark.parametrize('size', [(16, 16), (9, 15)])
def test_random_features_are_of_the_place(batches, size):
    model = convolutions(batches)
    x = torch.randn(1, 3, *size)
    other = x.clone()
    other[:, :, 4, 7] += 1
    change = (model.features(other) - model.features(x)).abs().sum(dim=1)[0]
    rows, cols = change.nonzero(as_tuple=True)
    assert change[4, 7] > 0
    # A filter's 3 pixels of 2 map pixels, and half of one more by interpolation
    assert max(int((rows - 4).abs().max()), int((cols - 7).abs().max())) <= 5


def test_filters_are_whitened():
    torch.manual_seed(0)
    mixed = torch.randn(20_000, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64) + 4
    filters, offsets = _whitened(mixed, 500, torch.Generator().manual_seed(0), ridge=0.0)
    responses = mixed.float() @ filters.T + offsets
    assert_close(responses.mean(dim=0), torch.zeros(500), atol=0.02, rtol=0)
    assert_close(responses.std(dim=0), torch.ones(500), atol=0.05, rtol=0)


@torch.no_grad()
def test_random_convolutions_see_texture(make_view):
    """Two classes of the same pixels: stripes along rows, and along columns."""
    batches = []
    for seed in range(3):
        view = make_view(1, size=(16, 16), seed=seed)
        stripes = (torch.arange(16) % 2).float().expand(16, 16)
        mask = torch.zeros(2, 16, 16, dtype=torch.long)
        mask[:, 8:] = 1
        view['image'] = 0.2 * view['image'] + torch.where(mask == 1, stripes, stripes.T)[:, None]
        batches.append(({SENSOR: (view,)}, mask))
    texture = RandomConvolutions(2, {SENSOR: 1}, filters=16)
    texture.fit(batches[:2], batches[2:])
    pixel = PixelRegression(2, {SENSOR: 1})
    pixel.fit(batches[:2], batches[2:])
    assert accuracy(texture, batches[2]) > 0.95
    assert accuracy(pixel, batches[2]) < 0.65
