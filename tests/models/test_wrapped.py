# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Wrapped encoders beside the originals called directly."""

import math

import pytest
import timm
import torch
import torchgeo.models
from torch.testing import assert_close
from torchgeo.models.copernicusfm import resize_abs_pos_embed

from torchgeo_anysensor.models import (
    CopernicusFMEncoder,
    DOFAEncoder,
    PanopticonEncoder,
    TimmEncoder,
    encode,
)
from torchgeo_anysensor.models.description import describe
from torchgeo_anysensor.models.pretrained import build_encoder, load_encoder
from torchgeo_anysensor.models.weights import load_weights, read_weights
from torchgeo_anysensor.models.wrapped import (
    COPERNICUSFM_REFLECTANCE,
    DOFA_REFLECTANCE,
    PANOPTICON_REFLECTANCE,
    z_score,
)

pytestmark = pytest.mark.usefixtures('small_dinov2')

SMALL = {'embed_dim': 48, 'depth': 2, 'num_heads': 3}
ENCODERS = {
    'dofa': lambda **kw: DOFAEncoder(**SMALL, **kw),
    'copernicusfm': lambda **kw: CopernicusFMEncoder(**SMALL, **kw),
    'panopticon': lambda **kw: PanopticonEncoder(48, attn_dim=96, **kw),
    'timm': lambda **kw: TimmEncoder((0.44, 1.6133), model='vit_tiny_patch16_224', **kw),
}


def randomised(model):
    """Parameters that nothing leaves at zero or one."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model.eval()


def saved(model, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(model.state_dict(), path)
    return path


def known_bands(view, spectrum, rows=(1, 3, 6, -1)):
    """A view at wavelengths of the table, and its image brought to mean 0 and deviation 1."""
    wavelength, mean, std = torch.tensor([spectrum[i] for i in rows]).T
    image = (view['image'] - mean[:, None, None]) / std[:, None, None]
    return {**view, 'wavelength': wavelength}, image


def last_block(model):
    """What the last block of a model gives, once it has run."""
    kept = []
    model.blocks[-1].register_forward_hook(lambda module, args, out: kept.append(out))
    return kept


def test_dofa_is_the_original(make_view, tmp_path):
    original = randomised(torchgeo.models.DOFA(**SMALL, num_classes=7))
    encoder = DOFAEncoder(**SMALL, weights=saved(original, tmp_path)).eval()
    view, image = known_bands(make_view(size=(224, 224)), DOFA_REFLECTANCE)
    kept = last_block(original)
    pooled = original.forward_features(image, view['wavelength'].tolist())
    features = encode(encoder, view)
    assert features.grid == (14, 14)
    assert_close(features.pooled, pooled, atol=1e-5, rtol=0)
    assert_close(features.tokens, original.fc_norm(kept[0][:, 1:]), atol=1e-5, rtol=0)


def test_panopticon_is_the_original(make_view, tmp_path):
    original = randomised(torchgeo.models.Panopticon(96, 48))
    encoder = PanopticonEncoder(48, attn_dim=96, weights=saved(original.model, tmp_path)).eval()
    view, image = known_bands(make_view(size=(224, 224)), PANOPTICON_REFLECTANCE)
    nm = torch.tensor([492.4, 664.6, 782.8, 2202.4]).expand(2, -1)
    features = encode(encoder, view)
    assert features.grid == (16, 16)
    pooled = original({'imgs': image, 'chn_ids': nm.clone()})
    assert_close(features.pooled, pooled, atol=1e-5, rtol=0)
    tokens = original.model.forward_features({'imgs': image, 'chn_ids': nm.clone()})
    assert_close(features.tokens, tokens[:, 1:], atol=1e-5, rtol=0)


def test_panopticon_reads_the_published_form(tmp_path):
    state = torchgeo.models.Panopticon(96, 48, img_size=518).model.state_dict()
    torch.save({**state, 'mask_token': torch.zeros(1, 48)}, tmp_path / 'weights.pth')
    encoder = PanopticonEncoder(48, attn_dim=96, weights=tmp_path / 'weights.pth')
    expected = resize_abs_pos_embed(state['pos_embed'], 224 // 14, 518 // 14)
    assert torch.equal(encoder.model.model.pos_embed, expected)


@pytest.mark.parametrize('size', [(224, 224), (96, 96)])
def test_copernicusfm_is_the_original(make_view, tmp_path, size):
    original = randomised(torchgeo.models.CopernicusFM(**SMALL))
    encoder = CopernicusFMEncoder(**SMALL, weights=saved(original, tmp_path)).eval()
    view, image = known_bands(make_view(size=size), COPERNICUSFM_REFLECTANCE)
    days = (18518.5, math.nan)  # a day and a half that float32 holds, as the original keeps it
    lon, lat = (math.nan, 5.25), (51.5, -33.75)
    view['t'] = torch.tensor(days, dtype=torch.float64) * 86400
    view['lon'], view['lat'] = torch.tensor([lon, lat], dtype=torch.float64)
    features = encode(encoder, view)
    kept = last_block(original)
    # One row after the other: an unknown time of one would be unknown to all
    for i in range(2):
        pooled = original(
            image[i : i + 1],
            torch.tensor([[lon[i], lat[i], days[i], 0.0256]]),
            (view['wavelength'] * 1000).tolist(),
            (view['bandwidth'] * 1000).tolist(),
        )
        assert_close(features.pooled[i], pooled[0], atol=1e-5, rtol=0)
        tokens = original.fc_norm(kept[i][0, 1:])
        assert_close(features.tokens[i], tokens, atol=1e-5, rtol=0)
    assert (features.pooled[0] - features.pooled[1]).abs().max() > 1e-3
    del view['lon']
    assert (encode(encoder, view).pooled[1] - features.pooled[1]).abs().max() > 1e-3


def test_panopticon_gets_whole_nanometres(make_view):
    nm = torch.arange(400.0, 2400.0)
    view = {**make_view(2000, size=(6, 6)), 'wavelength': nm / 1000}
    encoder, given = ENCODERS['panopticon'](token_m=60.0), []
    patches = encoder.model.model.patch_embed
    patches.register_forward_pre_hook(lambda module, args: given.append(args[0]['chn_ids'].clone()))
    encode(encoder, view)
    assert torch.equal(given[0].floor(), nm.expand(2, -1))


@pytest.mark.parametrize('name', ['dofa', 'copernicusfm', 'panopticon'])
def test_rows_of_other_bands_stay_in_their_places(make_view, name):
    encoder = ENCODERS[name](token_m=60.0).eval()
    view = make_view(batch=4)
    wavelength = torch.stack([view['wavelength'] * share for share in (1.1, 1.0, 1.1, 1.0)])
    view['valid'][3] = False
    together = encode(encoder, {**view, 'wavelength': wavelength})
    for i in range(4):
        alone = encode(encoder, {**view, 'wavelength': wavelength[i]})
        assert_close(together.tokens[i], alone.tokens[i])
        assert_close(together.pooled[i], alone.pooled[i])


def test_copernicusfm_takes_the_smallest_tokens_and_bands(make_view):
    view = make_view()
    view['bandwidth'] = view['bandwidth'] / 1000
    assert encode(ENCODERS['copernicusfm'](), view, token_m=20.0).tokens.isfinite().all()


@pytest.mark.parametrize(('model', 'pixels'), [('vit_tiny_patch16_224', 224), ('resnet10t', 96)])
def test_timm_is_the_original(make_view, tmp_path, model, pixels):
    original = randomised(timm.create_model(model, in_chans=2, num_classes=5))
    patch = 16 if model == 'vit_tiny_patch16_224' else 32
    wavelength, mean, std = (2.2, 0.44), [0.3, 0.1], [0.2, 0.3]
    encoder = TimmEncoder(
        wavelength,
        model=model,
        token_m=patch * 10.0,
        mean=mean,
        std=std,
        weights=saved(original, tmp_path),
    ).eval()
    view = make_view(size=(pixels, pixels))
    image = view['image'][:, [3, 0]] - torch.tensor(mean)[:, None, None]
    features = original.forward_features(image / torch.tensor(std)[:, None, None])
    pooled = original.forward_head(features, pre_logits=True)
    actual = encode(encoder, view)
    assert_close(actual.pooled, pooled, atol=1e-5, rtol=0)
    rows, cols = actual.grid
    assert rows == cols == pixels // patch
    for row in range(rows):
        for col in range(cols):
            if model == 'vit_tiny_patch16_224':
                token = features[:, original.num_prefix_tokens + row * cols + col]
            else:
                token = features[:, :, row, col]
            assert_close(actual.tokens[:, row * cols + col], token, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ('encoder', 'original'),
    [
        (DOFAEncoder, lambda: torchgeo.models.dofa_base_patch16_224(num_classes=0)),
        (
            lambda: DOFAEncoder(1024, depth=24, num_heads=16),
            lambda: torchgeo.models.dofa_large_patch16_224(num_classes=0),
        ),
        (CopernicusFMEncoder, torchgeo.models.copernicusfm_base),
    ],
)
def test_defaults_are_the_published_sizes(encoder, original):
    with torch.device('meta'):
        ours, theirs = encoder().model, original()
    shapes = {key: value.shape for key, value in theirs.state_dict().items()}
    # What is left out has no part in optical bands
    assert ours.state_dict().keys() >= {k for k in shapes if 'patch_embed_variable' not in k}
    assert all(value.shape == shapes[key] for key, value in ours.state_dict().items())
    assert [b.attn.num_heads for b in ours.blocks] == [b.attn.num_heads for b in theirs.blocks]


@pytest.mark.parametrize('encoder', [DOFAEncoder, CopernicusFMEncoder])
def test_tokens_have_a_place_without_weights(make_view, encoder):
    view = make_view()
    view['image'] = view['image'][..., :1, :1].expand(-1, -1, 12, 12)
    tokens = encode(encoder(**SMALL, patch_size=4, token_m=60.0).eval(), view).tokens
    assert (tokens[:, 0] - tokens[:, 1]).abs().max() > 1e-2


@pytest.mark.parametrize('name', ENCODERS)
def test_patch_must_be_whole_tokens(make_view, name):
    with pytest.raises(ValueError, match='not a whole number of tokens'):
        encode(ENCODERS[name](), make_view(), token_m=50.0)
    with pytest.raises(ValueError, match='token_m must be positive'):
        ENCODERS[name](token_m=0.0)


@pytest.mark.parametrize('spectrum', [DOFA_REFLECTANCE, PANOPTICON_REFLECTANCE])
def test_z_score_follows_the_table(spectrum):
    (w0, m0, s0), (w1, m1, s1) = spectrum[2:4]
    wavelength = torch.tensor([[w0, (w0 + w1) / 2, 0.35, 3.0, 10.9]])
    image = torch.tensor([0.3, 0.3, 0.3, 0.3, 300.0])[None, :, None, None]
    expected = [
        (0.3 - m0) / s0,
        (0.3 - (m0 + m1) / 2) / ((s0 + s1) / 2),
        (0.3 - spectrum[0][1]) / spectrum[0][2],
        (0.3 - spectrum[-1][1]) / spectrum[-1][2],
        0.5,
    ]
    assert_close(z_score(image, wavelength, spectrum).flatten(), torch.tensor(expected))


def test_weights_that_are_not_here_are_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    member = torchgeo.models.DOFABase16_Weights.DOFA_MAE
    file = tmp_path / 'hub' / 'checkpoints' / 'dofa_base_patch16_224-a0275954.pth'
    for weights in (member, 'DOFABase16_Weights.DOFA_MAE'):
        with pytest.raises(FileNotFoundError) as error:
            DOFAEncoder(**SMALL, weights=weights)
        assert member.url in str(error.value)
        assert str(file) in str(error.value)
    file.parent.mkdir(parents=True)
    torch.save({'a': torch.ones(2)}, file)
    assert torch.equal(read_weights('DOFABase16_Weights.DOFA_MAE')['a'], torch.ones(2))
    with pytest.raises(FileNotFoundError, match='no such file of weights'):
        DOFAEncoder(**SMALL, weights=tmp_path / 'nothing.pth')
    with pytest.raises(ValueError, match='not a valid WeightsEnum'):
        DOFAEncoder(**SMALL, weights='ResNet18_Weights.IMAGENET1K_V1')


def test_weights_of_another_model_raise(tmp_path):
    path = saved(ENCODERS['copernicusfm']().model, tmp_path)
    with pytest.raises(ValueError, match=r'missing \[.*unexpected \[.*coord_fc'):
        ENCODERS['dofa'](weights=path)
    path = saved(torchgeo.models.DOFA(**{**SMALL, 'embed_dim': 24}), tmp_path)
    with pytest.raises(ValueError, match='other sizes'):
        ENCODERS['dofa'](weights=path)
    with pytest.raises(ValueError, match=r"missing \['bias'\], unexpected \['other'\]"):
        load_weights(
            torch.nn.Linear(1, 1),
            {'weight': torch.ones(1, 1), 'other': torch.ones(1)},
            source='here',
        )
    torch.save({'state_dict': {}, 'epoch': 3}, path)
    with pytest.raises(ValueError, match='expected a state dict'):
        ENCODERS['dofa'](weights=path)


@pytest.mark.parametrize('name', ENCODERS)
def test_description_rebuilds_the_encoder(make_view, tmp_path, name):
    source = randomised(ENCODERS[name](token_m=60.0))
    network = source.model.model if name == 'panopticon' else source.model
    path = saved(network, tmp_path)
    encoder = ENCODERS[name](token_m=60.0, weights=path)
    description = describe(encoder)
    assert description['init_args']['weights'] == str(path)
    expected = encode(encoder.eval(), make_view())
    assert torch.equal(
        encode(build_encoder(description).eval(), make_view()).tokens, expected.tokens
    )
    # A checkpoint has its own weights, and needs the file no more
    path.unlink()
    encoder.save_pretrained(tmp_path / 'shared')
    texts = [(tmp_path / 'shared' / file).read_text() for file in ('config.json', 'README.md')]
    assert all(path.name in text and str(tmp_path) not in text for text in texts)
    shared = load_encoder(tmp_path / 'shared')
    assert torch.equal(encode(shared, make_view()).tokens, expected.tokens)
    checkpoint = {
        'hyper_parameters': {'encoder': description},
        'state_dict': {f'encoder.{key}': value for key, value in encoder.state_dict().items()},
    }
    torch.save(checkpoint, tmp_path / 'last.ckpt')
    loaded = load_encoder(tmp_path / 'last.ckpt')
    assert torch.equal(encode(loaded, make_view()).tokens, expected.tokens)


def test_timm_says_which_bands_are_lacking(make_view):
    encoder = TimmEncoder((0.44, 0.66, 1.6133), model='vit_tiny_patch16_224', token_m=60.0)
    with pytest.raises(ValueError, match=r'lack those at \[0.66\] um: they have \[0.44, 1.0267'):
        encode(encoder, make_view())


def test_timm_averages_what_is_seen_of_near_bands(make_view):
    encoder = TimmEncoder((0.44,), model='vit_tiny_patch16_224').eval()
    one, other, mean = (make_view(1, size=(16, 16), seed=seed) for seed in (0, 1, 0))
    other['wavelength'] = other['wavelength'] * 1.02
    mean['image'] = (one['image'] + other['image']) / 2
    assert_close(encode(encoder, [one, other]).tokens, encode(encoder, mean).tokens)
    other['valid'][:, :, 6:] = False
    mean['image'][..., 6:] = one['image'][..., 6:]
    assert_close(encode(encoder, [one, other]).tokens, encode(encoder, mean).tokens)
    other['wavelength'] = other['wavelength'] * 1.02
    assert_close(encode(encoder, [one, other]).tokens, encode(encoder, one).tokens)


def test_timm_refuses_what_it_cannot_be():
    with pytest.raises(ValueError, match='at least one band'):
        TimmEncoder(())
    with pytest.raises(ValueError, match='no vision transformer or ResNet'):
        TimmEncoder((0.44,), model='swin_tiny_patch4_window7_224')
    for given in ({'mean': [0.1]}, {'mean': [0.1], 'std': [0.1, 0.2]}):
        with pytest.raises(ValueError, match='mean and std for each of the 1 bands'):
            TimmEncoder((0.44,), model='vit_tiny_patch16_224', **given)
