# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Atomizer: an encoder with a token for each band of each pixel.

Letters as in :mod:`torchgeo_anysensor.types`, and ``P`` pixels of a cell, ``T`` tokens of a cell,
``F`` features of a token.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..types import SensorSample
from .base import WAVELENGTH_RANGE_UM, Features, SensorEncoder
from .codes import gsd_features
from .ground import cell_grid
from .spectral import standardise
from .trunk import Trunk, cell_centres

#: Fourier features: 16 for each direction of the position, 32 for the value.
POSITION_DIM, VALUE_DIM = 16, 32
#: Longest and shortest wavelength of the features of the position, in metres on the ground.
POSITION_WAVELENGTHS_M = (512.0, 4.0)
#: Longest and shortest wavelength of the features of the value; a unit is 0.2 reflectance or 20 K.
VALUE_WAVELENGTHS = (16.0, 0.25)
#: Radial basis functions of the wavelength.
BASIS_DIM = 64
#: Features of a token: the value, two directions, the wavelength, and 16 of the GSD.
ATOM_DIM = VALUE_DIM + 2 * POSITION_DIM + BASIS_DIM + 16
#: Attention heads with which a latent reads tokens.
LOOK_HEADS = 8


def fourier(x: Tensor, wavelengths: tuple[float, float], dim: int) -> Tensor:
    """Describe numbers by waves that are evenly spaced in the logarithm of their length.

    Args:
        x: ``(...)``.
        wavelengths: Of the longest and the shortest wave, in the unit of ``x``.
        dim: Number of features, even.

    Returns:
        ``(..., dim)`` float32.
    """
    low, high = (math.log10(2 * math.pi / w) for w in wavelengths)
    phase = x.float()[..., None] * torch.logspace(low, high, dim // 2, device=x.device)
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


def spectral_basis(wavelength: Tensor, bandwidth: Tensor) -> Tensor:
    """Say which radial basis functions of the wavelength a band covers.

    The functions are Gaussians of ``ln(wavelength)``, one standard deviation apart. A band covers
    one by the largest value that it takes within the full width at half maximum.

    Args:
        wavelength: ``(...)`` centre wavelengths in micrometres.
        bandwidth: ``(...)`` full widths at half maximum in micrometres.

    Returns:
        ``(..., 64)`` float32, from 0 to 1.
    """
    low, high = (math.log(w) for w in WAVELENGTH_RANGE_UM)
    centres = torch.linspace(low, high, BASIS_DIM, device=wavelength.device)
    half = bandwidth.float() / 2
    # A band wider than twice its wavelength would begin below zero
    begin = (wavelength.float() - half).clamp(min=1e-3).log()[..., None]
    end = (wavelength.float() + half).log()[..., None]
    distance = (begin - centres).clamp(min=0) + (centres - end).clamp(min=0)
    spacing = (high - low) / (BASIS_DIM - 1)
    return torch.exp(-((distance / spacing) ** 2) / 2)


class Atoms(NamedTuple):
    """The tokens of a view, sorted by ground cell, before they are written out."""

    values: Tensor  #: ``(B, N, P, C)`` without unit, finite
    seen: Tensor  #: ``(B, N, P)`` bool: the pixel is in the cell and valid
    places: Tensor  #: ``(N, P, 2 * 16)`` features of the position
    facts: Tensor  #: ``(C, 64 + 16)`` or ``(B, C, 64 + 16)`` features of the bands
    grid: tuple[int, int]  #: rows and columns of the cells

    def tokens(self, part: slice) -> Tensor:
        """Write out the tokens ``(B, n, P * C, F)`` of ``n`` cells."""
        values = fourier(self.values[:, part], VALUE_WAVELENGTHS, VALUE_DIM)  # (B, n, P, C, 32)
        shape = values.shape[:-1]
        places = self.places[part, :, None].expand(*shape, -1)
        facts = self.facts[..., None, None, :, :].expand(*shape, -1)
        return torch.cat([values, places, facts], dim=-1).flatten(2, 3)

    def keys(self, part: slice) -> Tensor:
        """Say which tokens of ``n`` cells are there, ``(B, n, P * C)`` bool."""
        return self.seen[:, part].repeat_interleave(self.values.shape[-1], dim=-1)


def _reach(pixels: int, cells: int) -> tuple[Tensor, Tensor]:
    """List the pixels along an axis that share ground with each cell.

    Args:
        pixels: Number of pixels.
        cells: Number of cells on the same length of ground.

    Returns:
        Indices ``(cells, k)`` of pixels, and whether they belong to the cell, bool.
    """
    cell = torch.arange(cells)
    first = cell * pixels // cells
    stop = -(-(cell + 1) * pixels // cells)  # rounded up
    index = first[:, None] + torch.arange(int((stop - first).max()))
    return index.clamp(max=pixels - 1), index < stop[:, None]


def atomize(view: SensorSample, *, token_m: float) -> Atoms:
    """Break a view down to its numbers.

    A pixel that shares ground with several cells is in the set of each.

    Args:
        view: One batched view.
        token_m: Width of a ground cell in metres.

    Returns:
        The tokens, cell by cell from the north-west corner.

    Raises:
        ValueError: If the patch is not a whole number of cells.
    """
    valid, device = view['valid'], view['valid'].device
    shape = (valid.shape[-2], valid.shape[-1])
    grid = cell_grid(shape, res=float(view['res']), token_m=token_m)
    reach = [_reach(n, cells) for n, cells in zip(shape, grid)]
    (rows, row_inside), (cols, col_inside) = ([x.to(device) for x in axis] for axis in reach)
    image = standardise(torch.where(valid[:, None], view['image'].float(), 0.0), view['wavelength'])
    values = rearrange(image[..., rows, :][..., cols], 'b c h p w q -> b (h w) (p q) c')
    inside = row_inside[:, :, None, None] & col_inside  # (h, p, w, q)
    seen = rearrange(valid[..., rows, :][..., cols] & inside, 'b h p w q -> b (h w) (p q)')
    offsets = []
    for index, n, cells in zip((rows, cols), shape, grid):
        cell = torch.arange(cells, device=device)[:, None]
        metres = token_m * ((index + 0.5) * cells / n - (cell + 0.5))  # from the centre of the cell
        offsets.append(fourier(metres, POSITION_WAVELENGTHS_M, POSITION_DIM))  # (h, p, 16)
    south, east = offsets
    size = (*inside.shape, POSITION_DIM)
    places = torch.cat([south[:, :, None, None].expand(size), east.expand(size)], dim=-1)
    places = rearrange(places, 'h p w q f -> (h w) (p q) f')
    basis = spectral_basis(view['wavelength'], view['bandwidth'])
    gsd = gsd_features(view['gsd'])
    lead = max(basis.shape[:-1], gsd.shape[:-1], key=len)  # platforms differ in some facts
    facts = torch.cat([basis.expand(*lead, -1), gsd.expand(*lead, -1)], dim=-1)
    return Atoms(values, seen, places, facts, grid)


class Look(nn.Module):
    """Latents look at the tokens of their cells, then think.

    Keys and values are the tokens themselves; their projections are absorbed into the queries and
    the output, of which there are few. A token so costs no projection.
    """

    def __init__(self, dim: int) -> None:
        """Make a look of latents of length ``dim``."""
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, LOOK_HEADS * ATOM_DIM)
        self.out = nn.Linear(LOOK_HEADS * ATOM_DIM, dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )

    def forward(self, latents: Tensor, tokens: Tensor, seen: Tensor) -> Tensor:
        """Update latents.

        Args:
            latents: ``(B, N, D)``.
            tokens: ``(B, N, T, F)``, finite.
            seen: ``(B, N, T)`` bool, the tokens to look at.

        Returns:
            ``(B, N, D)``.
        """
        query = rearrange(self.query(self.norm(latents)), 'b n (h f) -> b n h f', h=LOOK_HEADS)
        some = seen.any(dim=-1, keepdim=True)  # (B, N, 1)
        # A softmax over nothing is NaN: such cells look at everything and forget it. Ground cells
        # stand where attention heads usually do.
        keys = (seen | ~some).unsqueeze(-2)
        tokens = tokens.to(query.dtype)
        read = F.scaled_dot_product_attention(query, tokens, tokens, attn_mask=keys)
        latents = latents + self.out(torch.where(some, read.flatten(-2), 0.0))
        updated: Tensor = latents + self.mlp(latents)
        return updated


class Atomizer(SensorEncoder):
    """Latents that read single numbers (de Turckheim et al. 2025, arXiv 2506.13542).

    Written after the paper's abstract and introduction, and after what its authors' code does. It
    holds none of their code and none of their weights, and their weights do not fit.

    As in the paper:

    - A token is one number, the value of one band at one pixel, with what is known of it: Fourier
      features of the value and the position, and radial basis functions of the wavelength that say
      what the band covers. They are joined end to end.
    - The tokens of all bands, pixels and sensors are one set. Nothing is resampled.
    - Latents read the tokens by cross-attention and talk to each other by self-attention, in turns,
      as in the Perceiver (Jaegle et al. 2021, arXiv 2103.03206).

    Their code (https://github.com/HugoRdet/Atomizer) has many versions; the settings of the runs
    were not found. In the version whose latents are a Perceiver's
    (``training/atomiser/Atomiser_tradi.py``, its tokens are made in
    ``training/utils/utils_dataset_transformation_tradi.py``):

    - A band covers a basis function by the largest value within the band, each read has weights of
      its own unless they are asked to be shared, and no latent reads what is not valid. So it is
      here.
    - Latents, 512 by default, are learned one by one and have no place; a random tenth is used at a
      time. Here one learned vector, the same everywhere, lies on each ground cell, reads the tokens
      of its cell and knows positions in metres from its centre. So the output is on the ground grid,
      and the cost of reading grows linearly with the tokens. A later version does likewise
      (``training/atomiser/Atomiser_SENFLOOD.py``), with a limit of tokens for each latent; it has
      rotary positions of latents, and latents without a place beside them, as here.
    - Random tokens are dropped before each read. Here all are read, so that a patch always gives the
      same features.
    - By default, latents read before each block of self-attention. Here they read twice in all,
      which is cheaper; ``turns=depth`` is their way.
    - The GSD only stretches the positions, which are Fourier features of the place in the patch in
      units of 400 m. Here tokens hold Fourier features of the GSD, as in later versions
      (``training/utils/token_building/processor.py``), and positions are metres.
    - The time is not in the tokens, though the abstract names it; later versions have it there. Here
      it is left out.
    - Fourier features have frequencies in even steps, and the number itself beside them. Here
      frequencies are even in their logarithm, without the number: the length of a token stays a
      multiple of 16, for speed.
    - The basis functions have means and widths of their own, and the largest value is found by
      sampling. (Later versions have 19, and a band covers one by an integral,
      ``training/utils/token_building/spectral_encodings.py``.) Here 64 are even in the logarithm of
      the wavelength, as far as thermal bands, and the largest value comes by its formula.
    - Tokens are normed before a read, and made into keys and values. Here tokens are their own keys
      and values, with no norm, which costs less.
    - The MLPs are gated, and a classifier gets one vector that reads all latents
      (``training/atomiser/nn_comp.py``). Here MLPs are plain, the features are the latents, and the
      pooled vector is a class token.

    Of this package are two things more. Values go through one fixed map for each unit, so that no
    statistics of bands are needed. Tokens are read in parts, so that memory is bounded, which
    changes no result.

    A pixel that is not valid is not in the set. As tokens know their place, a patch of one colour
    with holes then gives slightly other features than one without.

    The offsets ``dx`` and ``dy`` of a view are ignored.
    """

    def __init__(
        self,
        embed_dim: int = 384,
        *,
        depth: int = 12,
        num_heads: int = 6,
        turns: int = 2,
        registers: int = 4,
        token_m: float = 60.0,
        chunk: int = 2**16,
    ) -> None:
        """Make the encoder.

        Args:
            embed_dim: Length of the features, and of a latent.
            depth: Number of transformer blocks, over all turns.
            num_heads: Attention heads of a transformer block.
            turns: How often the latents read the tokens, each time before ``depth / turns`` blocks.
            registers: Tokens of the transformer without a place, beside the class token.
            token_m: Width of a ground token in metres, unless the call says another.
            chunk: Most pixel-band tokens of a batch to hold at once, but at least those of a cell.
                In training, the tokens are written out again for the gradient.

        Raises:
            ValueError: If a token has no width, the heads do not divide the features, or the turns
                do not divide the blocks.
        """
        super().__init__()
        if not token_m > 0:
            raise ValueError(f'token_m must be positive metres, got {token_m}')
        if turns < 1 or depth % turns:
            raise ValueError(f'depth must be a multiple of turns, got {depth=}, {turns=}')
        self.init_args = {
            'embed_dim': embed_dim,
            'depth': depth,
            'num_heads': num_heads,
            'turns': turns,
            'registers': registers,
            'token_m': token_m,
            'chunk': chunk,
        }
        self.embed_dim = embed_dim
        self.token_m = token_m
        self.chunk = chunk
        self.latent = nn.Parameter(0.02 * torch.randn(embed_dim))
        self.looks = nn.ModuleList(Look(embed_dim) for _ in range(turns))
        self.trunks = nn.ModuleList(
            Trunk(embed_dim, depth=depth // turns, num_heads=num_heads, registers=registers)
            for _ in range(turns)
        )

    def _read(self, look: nn.Module, latents: Tensor, views: Sequence[Atoms]) -> Tensor:
        """Let latents ``(B, N, D)`` look at the tokens of all views, some cells at a time."""

        def read(latents: Tensor, part: slice) -> Tensor:
            tokens = torch.cat([view.tokens(part) for view in views], dim=2)
            keys = torch.cat([view.keys(part) for view in views], dim=2)
            updated: Tensor = look(latents[:, part], tokens, keys)
            return updated

        batch, count, _ = latents.shape
        of_cell = batch * sum(math.prod(view.values.shape[-2:]) for view in views)
        step = max(1, self.chunk // of_cell)
        if step >= count:
            return read(latents, slice(None))
        parts = [slice(start, start + step) for start in range(0, count, step)]
        return torch.cat(
            [checkpoint(read, latents, part, use_reentrant=False) for part in parts], dim=1
        )

    def forward(self, views: Sequence[SensorSample], *, token_m: float | None = None) -> Features:
        """Encode views of the same patches; see :meth:`SensorEncoder.forward`.

        Raises:
            ValueError: If the patch is not a whole number of tokens, or the views differ in it.
        """
        token_m = self.token_m if token_m is None else token_m
        atoms = [atomize(view, token_m=token_m) for view in views]
        grids = {view.grid for view in atoms}
        if len(grids) > 1:
            raise ValueError(f'views of one patch must share their ground, got token grids {grids}')
        grid = atoms[0].grid
        valid = torch.stack([view.seen.any(dim=-1) for view in atoms]).any(dim=0)  # (B, N)
        positions = cell_centres(grid, token_m=token_m, device=valid.device)
        x = self.latent.expand(*valid.shape, -1)
        for look, trunk in zip(self.looks, self.trunks):
            x, pooled = trunk(self._read(look, x, atoms), valid, positions)
        return Features(x, pooled, grid, valid)


def atomizer_tiny(*, token_m: float = 60.0, depth: int = 12) -> Atomizer:
    """Build the encoder with 192 features.

    Args:
        token_m: Width of a ground token in metres.
        depth: Number of transformer blocks, an even number.
    """
    return Atomizer(192, depth=depth, num_heads=3, token_m=token_m)


def atomizer_small(*, token_m: float = 60.0, depth: int = 12) -> Atomizer:
    """Build the encoder with 384 features.

    Args:
        token_m: Width of a ground token in metres.
        depth: Number of transformer blocks, an even number.
    """
    return Atomizer(384, depth=depth, num_heads=6, token_m=token_m)
