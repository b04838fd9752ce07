# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Foundation models of TorchGeo as encoders of any sensor.

The tokens come from the parts of the original model, called one after the other, because the
originals return a pooled vector alone. What each cannot do is in ``docs/encoders.md``.

Letters as in :mod:`torchgeo_anysensor.types`.
"""

from enum import Enum
from pathlib import Path
from typing import Any, cast

import torch
import torchgeo.models
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from torch import Tensor, nn
from torchgeo.models.copernicusfm import resize_abs_pos_embed

from .codes import is_thermal
from .one_grid import GridInputs, OneListEncoder, mean_of_valid
from .spectral import standardise
from .weights import load_weights, read_weights, weights_name

#: What the originals call ``img_size``: the side of an image that needs no other positions.
IMAGE_SIZE = 224

_NM_PER_UM = 1000.0

#: Wavelength in um, mean and standard deviation of the reflectance that DOFA was trained on: 14 of
#: the 202 bands of EnMAP in HySpecNet-11k (``Hyper_MEAN`` and ``Hyper_STD`` in
#: normalize_dataset.py of https://github.com/zhu-xlab/DOFA), outside the absorption bands. Its
#: Sentinel-2 images were stretched to 8 bits, which says nothing of reflectance.
DOFA_REFLECTANCE = (
    (0.4447, 0.0543, 0.0570),
    (0.4918, 0.0658, 0.0620),
    (0.5611, 0.0913, 0.0768),
    (0.6666, 0.1102, 0.0984),
    (0.7066, 0.1341, 0.0988),
    (0.7418, 0.1747, 0.1095),
    (0.7861, 0.1909, 0.1184),
    (0.8400, 0.2001, 0.1234),
    (0.8637, 0.2045, 0.1257),
    (1.0478, 0.2400, 0.1406),
    (1.2350, 0.2488, 0.1482),
    (1.6090, 0.2192, 0.1511),
    (2.1995, 0.1687, 0.1275),
    (2.2982, 0.1484, 0.1199),
)
#: The same of Panopticon: Sentinel-2 L1C in fMoW, without B09 and B10 (``fmow_s2`` in
#: dinov2/data/datasets/fmow.py of https://github.com/Panopticon-FM/panopticon), DN / 10000.
PANOPTICON_REFLECTANCE = (
    (0.4427, 0.15692, 0.05178),
    (0.4924, 0.13840, 0.05950),
    (0.5598, 0.13384, 0.06902),
    (0.6646, 0.14081, 0.09948),
    (0.7041, 0.15373, 0.09945),
    (0.7405, 0.19265, 0.10795),
    (0.7828, 0.21365, 0.11924),
    (0.8328, 0.20334, 0.11710),
    (0.8647, 0.22625, 0.12782),
    (1.6137, 0.20274, 0.13624),
    (2.2024, 0.15015, 0.11346),
)
#: The same of Copernicus-FM: Sentinel-2 L1C, without B09 and B10 (``S2C_MEAN`` and ``S2C_STD`` in
#: Copernicus-FM/src/main_pretrain.py of https://github.com/zhu-xlab/Copernicus-FM), DN / 10000.
COPERNICUSFM_REFLECTANCE = (
    (0.4427, 0.16129, 0.07910),
    (0.4924, 0.13976, 0.08543),
    (0.5598, 0.13223, 0.08787),
    (0.6646, 0.13731, 0.11449),
    (0.7041, 0.15610, 0.11275),
    (0.7405, 0.21084, 0.11642),
    (0.7828, 0.23907, 0.12760),
    (0.8328, 0.23184, 0.12495),
    (0.8647, 0.25810, 0.13459),
    (1.6137, 0.21952, 0.13400),
    (2.2024, 0.15374, 0.11429),
)

#: Least token area in km2 and least bandwidth in nm that Copernicus-FM can encode.
_LEAST_AREA_KM2 = 0.001
_LEAST_BANDWIDTH_NM = 1.0


def z_score(
    image: Tensor, wavelength: Tensor, spectrum: tuple[tuple[float, float, float], ...]
) -> Tensor:
    """Subtract the mean of a wavelength and divide by its standard deviation.

    The originals were trained on bands brought to mean 0 and deviation 1, each by its own
    statistics. Between the bands whose statistics are known they are interpolated, beyond the
    first and the last they stay. Thermal bands, which no original has seen, are standardised as in
    :func:`~torchgeo_anysensor.models.spectral.standardise`.

    Args:
        image: ``(B, C, H, W)`` reflectance or kelvin.
        wavelength: ``(B, C)`` um.
        spectrum: Rows of wavelength in um, mean and standard deviation, ascending.

    Returns:
        ``(B, C, H, W)`` without unit.
    """
    table = torch.tensor(spectrum, device=wavelength.device)  # (S, 3)
    known = table[:, 0].contiguous()
    w = wavelength.float().clamp(spectrum[0][0], spectrum[-1][0]).contiguous()
    right = torch.searchsorted(known, w).clamp(1, len(known) - 1)
    share = ((w - known[right - 1]) / (known[right] - known[right - 1]))[..., None]
    mean, deviation = torch.lerp(table[right - 1, 1:], table[right, 1:], share).unbind(dim=-1)
    thermal = is_thermal(wavelength)[..., None, None]
    z = (image - mean[..., None, None]) / deviation[..., None, None]
    return torch.where(thermal, standardise(image, wavelength), z)


def _positions(pos_embed: Tensor, grid: tuple[int, int]) -> Tensor:
    """Positional embedding ``(1, 1 + N, D)`` of a grid; untouched if it has the grid already."""
    side = round((pos_embed.shape[1] - 1) ** 0.5)
    return resize_abs_pos_embed(pos_embed, grid, (side, side))


def _fresh_positions(pos_embed: nn.Parameter) -> None:
    """Fill the fixed embedding, zeros until weights are loaded, so that tokens have a place."""
    side = round((pos_embed.shape[1] - 1) ** 0.5)
    embedding = build_sincos2d_pos_embed([side, side], dim=pos_embed.shape[-1])
    with torch.no_grad():
        pos_embed[0, 1:] = embedding


class DOFAEncoder(OneListEncoder):
    """DOFA (Xiong et al. 2024, https://arxiv.org/abs/2403.15356), as it is in TorchGeo.

    It is told the centre wavelength of each band, in um, but neither bandwidth nor ground sample
    distance. Positions of token grids other than the original's 14 x 14 are interpolated. Both
    tokens and their mean go through the last norm.
    """

    def __init__(
        self,
        embed_dim: int = 768,
        *,
        depth: int = 12,
        num_heads: int = 12,
        patch_size: int = 16,
        token_m: float = 160.0,
        weights: Enum | str | Path | None = None,
    ) -> None:
        """Make the encoder; the defaults are the base model on pixels of 10 m.

        Args:
            embed_dim: Length of the features; 1024 for the large model.
            depth: Number of transformer blocks; 24 for the large model.
            num_heads: Attention heads of a block; 16 for the large model.
            patch_size: Pixels along the side of a token.
            token_m: Width of a token in metres, unless the call says another.
            weights: Random if None; else a member of TorchGeo's weights, or its name, whose file
                is in the cache of torch hub; or the path of a file with the same names.

        Raises:
            FileNotFoundError: If the weights are not on this machine.
            ValueError: If the weights are of another model.
        """
        super().__init__(embed_dim, patch_size=patch_size, token_m=token_m)
        self.init_args = {
            'embed_dim': embed_dim,
            'depth': depth,
            'num_heads': num_heads,
            'patch_size': patch_size,
            'token_m': token_m,
            'weights': (name := weights_name(weights)),
        }
        self.model = torchgeo.models.DOFA(
            img_size=IMAGE_SIZE,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            num_classes=0,
        )
        _fresh_positions(self.model.pos_embed)
        if name is not None:
            state = read_weights(name)
            load_weights(self.model, state, source=name, fresh=('fc_norm.',), unused=('head.',))

    def scale(self, image: Tensor, wavelength: Tensor) -> Tensor:
        """Bring reflectance to mean 0 and deviation 1; see :data:`DOFA_REFLECTANCE`."""
        return z_score(image, wavelength, DOFA_REFLECTANCE)

    def embed_alike(self, inputs: GridInputs) -> tuple[Tensor, Tensor]:
        """Embed one list of bands; see :meth:`OneListEncoder.embed_alike`."""
        model = self.model
        x, _ = model.patch_embed(inputs.image, inputs.wavelength[0])  # (B, N, D)
        positions = _positions(model.pos_embed, inputs.grid)
        cls = (model.cls_token + positions[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([cls, x + positions[:, 1:]], dim=1)
        for block in model.blocks:
            x = block(x)
        tokens = x[:, 1:]
        return model.fc_norm(tokens), model.fc_norm(mean_of_valid(tokens, inputs.valid))


class PanopticonEncoder(OneListEncoder):
    """Panopticon (Waldmann et al. 2025, https://arxiv.org/abs/2503.10845), as it is in TorchGeo.

    It is told the centre wavelength of each band, as whole nanometres, but neither bandwidth nor
    ground sample distance. Positions of token grids other than the original's 16 x 16 are
    interpolated. The pooled feature is the class token.
    """

    def __init__(
        self,
        embed_dim: int = 768,
        *,
        attn_dim: int = 2304,
        token_m: float = 140.0,
        weights: Enum | str | Path | None = None,
    ) -> None:
        """Make the encoder; the defaults are the published model on pixels of 10 m.

        Args:
            embed_dim: Length of the features; TorchGeo's transformer has 768 and no other.
            attn_dim: Length of a band token.
            token_m: Width of a token in metres, unless the call says another.
            weights: Random if None; else a member of TorchGeo's weights, or its name, whose file
                is in the cache of torch hub; or the path of a file with the same names.

        Raises:
            FileNotFoundError: If the weights are not on this machine.
            ValueError: If the weights are of another model.
        """
        super().__init__(embed_dim, patch_size=14, token_m=token_m)
        self.init_args = {
            'embed_dim': embed_dim,
            'attn_dim': attn_dim,
            'token_m': token_m,
            'weights': (name := weights_name(weights)),
        }
        self.model = torchgeo.models.Panopticon(attn_dim, embed_dim, img_size=IMAGE_SIZE)
        vit: Any = self.model.model
        radar = vit.patch_embed.chnfus.chnemb
        for parameter in radar.parameters():  # no optical band ever uses them
            parameter.requires_grad_(False)
        if name is not None:
            state = read_weights(name)
            if 'pos_embed' in state:  # published for images of 518 x 518
                side = IMAGE_SIZE // self.patch_size
                state['pos_embed'] = _positions(state['pos_embed'], (side, side))
            load_weights(vit, state, source=name, unused=('mask_token',))

    def scale(self, image: Tensor, wavelength: Tensor) -> Tensor:
        """Bring reflectance to mean 0 and deviation 1; see :data:`PANOPTICON_REFLECTANCE`."""
        return z_score(image, wavelength, PANOPTICON_REFLECTANCE)

    def embed_alike(self, inputs: GridInputs) -> tuple[Tensor, Tensor]:
        """Embed one list of bands; see :meth:`OneListEncoder.embed_alike`."""
        vit: Any = self.model.model
        # A copy, because the original writes into it: it cuts to whole nanometres, and so must not
        # get 664.99997 for 665
        nm = (inputs.wavelength.float() * _NM_PER_UM).round(decimals=2)
        x = vit.patch_embed({'imgs': inputs.image, 'chn_ids': nm})  # (B, N, D)
        x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + _positions(vit.pos_embed, inputs.grid)
        for block in vit.blocks:
            x = block(x)
        x = vit.norm(x)
        return x[:, 1:], x[:, 0]


class CopernicusFMEncoder(OneListEncoder):
    """Copernicus-FM (Wang et al. 2025, https://arxiv.org/abs/2503.11849), as it is in TorchGeo.

    It is told the centre wavelength and the bandwidth of each band in nanometres, the longitude and
    latitude of the patch, the time of the acquisitions and the area of a token, but not the ground
    sample distance. A place or a time that is not known, or NaN, is its learned unknown, of that
    row alone. Bandwidths under 1 nm and tokens under 0.001 km2 count as these. Positions of token
    grids other than the original's 14 x 14 are interpolated. Both tokens and their mean go through
    the last norm.
    """

    def __init__(
        self,
        embed_dim: int = 768,
        *,
        depth: int = 12,
        num_heads: int = 12,
        patch_size: int = 16,
        token_m: float = 160.0,
        weights: Enum | str | Path | None = None,
    ) -> None:
        """Make the encoder; the defaults are the published model on pixels of 10 m.

        Args:
            embed_dim: Length of the features.
            depth: Number of transformer blocks.
            num_heads: Attention heads of a block.
            patch_size: Pixels along the side of a token.
            token_m: Width of a token in metres, unless the call says another.
            weights: Random if None; else a member of TorchGeo's weights, or its name, whose file
                is in the cache of torch hub; or the path of a file with the same names.

        Raises:
            FileNotFoundError: If the weights are not on this machine.
            ValueError: If the weights are of another model.
        """
        super().__init__(embed_dim, patch_size=patch_size, token_m=token_m)
        self.init_args = {
            'embed_dim': embed_dim,
            'depth': depth,
            'num_heads': num_heads,
            'patch_size': patch_size,
            'token_m': token_m,
            'weights': (name := weights_name(weights)),
        }
        self.model = torchgeo.models.CopernicusFM(
            img_size=IMAGE_SIZE,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
        )
        # For variables without a wavelength, a quarter of the base model
        del self.model.patch_embed_variable
        self.model.scale_token.requires_grad_(False)  # stands for an area that is not known
        _fresh_positions(self.model.pos_embed)
        nn.init.normal_(self.model.coord_token, std=0.02)  # with 0, coord_fc would not learn
        if name is not None:
            state = read_weights(name)
            unused = ('head.', 'patch_embed_variable.')
            load_weights(self.model, state, source=name, fresh=('fc_norm.',), unused=unused)

    def scale(self, image: Tensor, wavelength: Tensor) -> Tensor:
        """Bring reflectance to mean 0 and deviation 1; see :data:`COPERNICUSFM_REFLECTANCE`."""
        return z_score(image, wavelength, COPERNICUSFM_REFLECTANCE)

    def metadata(self, days: Tensor, place: Tensor, *, token_m: float) -> Tensor:
        """What the original adds to each token for place, token area and time.

        Args:
            days: ``(B,)`` days since 1970, NaN where not known.
            place: ``(B, 2)`` longitude and latitude in degrees, NaN where not known.
            token_m: Width of a token in metres.

        Returns:
            ``(B, 1, D)``.
        """
        model = self.model
        area = days.new_full((1,), max((token_m / 1000) ** 2, _LEAST_AREA_KM2))
        scale = model.scale_fc(model.get_area_pos_embed(area, self.embed_dim))
        known = ~days.isnan()[:, None, None]
        time = model.get_time_pos_embed(days.nan_to_num(), self.embed_dim)
        time = model.time_fc(torch.where(known, time, model.time_token))
        known = ~place.isnan().any(dim=-1)[:, None, None]
        lon, lat = place.nan_to_num().unbind(dim=-1)
        where = model.get_coord_pos_embed(lon, lat, self.embed_dim)
        where = model.coord_fc(torch.where(known, where, model.coord_token))
        return cast(Tensor, where + scale + time)

    def embed_alike(self, inputs: GridInputs) -> tuple[Tensor, Tensor]:
        """Embed one list of bands; see :meth:`OneListEncoder.embed_alike`."""
        model = self.model
        x = model.patch_embed_spectral(
            inputs.image,
            wavelengths=inputs.wavelength[0] * _NM_PER_UM,
            bandwidths=(inputs.bandwidth[0] * _NM_PER_UM).clamp(min=_LEAST_BANDWIDTH_NM),
        )  # (B, N, D)
        positions = _positions(model.pos_embed, inputs.grid)
        positions = positions + self.metadata(inputs.days, inputs.place, token_m=inputs.token_m)
        x = torch.cat([model.cls_token + positions[:, :1], x + positions[:, 1:]], dim=1)
        for block in model.blocks:
            x = block(x)
        tokens = x[:, 1:]
        return model.fc_norm(tokens), model.fc_norm(mean_of_valid(tokens, inputs.valid))
