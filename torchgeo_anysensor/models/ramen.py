# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""RAMEN: an encoder whose resolution the user chooses.

Letters as in :mod:`torchgeo_anysensor.types`, and ``M`` views and ``E`` experts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..types import SensorSample
from .base import Features, SensorEncoder
from .ground import cut_view
from .spectral import unit_range
from .trunk import Trunk, cell_centres

#: Convolutions that correct what resampling does to the features.
EXPERTS = 4
#: What the weights of the experts are divided by at the beginning, and by what at least.
TEMPERATURE, LEAST_TEMPERATURE = 0.7, 1e-3


def sincos(x: Tensor, dim: int) -> Tensor:
    """Encode numbers by sines and cosines (Vaswani et al. 2017, arXiv 1706.03762).

    Args:
        x: ``(...)``.
        dim: Length of the code, even.

    Returns:
        ``(..., dim)`` float32.
    """
    powers = torch.arange(0, dim, 2, device=x.device, dtype=torch.float32) / dim
    phase = x.float()[..., None] / 10_000**powers
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


class ChannelProjector(nn.Module):
    """A linear map from any bands to features, made from the wavelengths of the bands."""

    def __init__(self, dim: int) -> None:
        """Make the projector to ``dim`` features."""
        super().__init__()
        self.dim = dim
        self.mlp = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim), nn.LayerNorm(dim)
        )

    def forward(self, pixels: Tensor, wavelength: Tensor) -> Tensor:
        """Project pixels.

        Args:
            pixels: ``(B, N, C)`` without unit.
            wavelength: ``(C,)`` or ``(B, C)`` in micrometres.

        Returns:
            ``(B, N, D)``.
        """
        matrix = self.mlp(sincos(1000 * wavelength, self.dim))  # nm; ([B,] C, D)
        return pixels.to(matrix.dtype) @ matrix


class ScaleExperts(nn.Module):
    """Corrects resampled features, by how much finer or coarser they have become."""

    def __init__(self, dim: int) -> None:
        """Make the experts for ``dim`` features."""
        super().__init__()
        self.dim = dim
        self.gate = nn.Sequential(nn.Linear(dim, dim // 4), nn.GELU(), nn.Linear(dim // 4, EXPERTS))
        self.temperature = nn.Parameter(torch.tensor(TEMPERATURE))
        self.experts = nn.Linear(dim, EXPERTS * dim)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """Correct features.

        Args:
            x: ``(B, N, D)``.
            scale: ``()`` or ``(B,)``, logarithm of the native over the new resolution.

        Returns:
            ``(B, N, D)``.
        """
        logits = self.gate(sincos(scale, self.dim)) / self.temperature.clamp(min=LEAST_TEMPERATURE)
        weights = logits.softmax(dim=-1).reshape(-1, 1, 1, EXPERTS)
        corrections = self.experts(x).unflatten(-1, (EXPERTS, -1))  # (B, N, E, D)
        corrected: Tensor = x + (weights @ corrections).squeeze(-2)
        return corrected


class RAMEN(SensorEncoder):
    """A transformer over tokens whose width the user chooses (Houdré et al. 2025, arXiv 2512.05025).

    Written after the paper and after what its authors' code does. It holds none of their code and
    none of their weights, and their weights do not fit.

    As in the paper:

    - Pixels are projected to ``D`` features by weights that an MLP makes from a sine-cosine code of
      the wavelength in nanometres. The projection is linear and sums over the bands.
    - The features are resampled to a resolution that the user chooses, here ``token_m``. Four 1 x 1
      convolutions correct them, weighted by a softmax over a code of ``log(gsd / token_m)``.
    - Sine-cosine positions are scaled by the resolution, as in Scale-MAE (arXiv 2212.14532).
    - The tokens of all views are one sequence for one transformer with a class token.
    - Nothing is told the bandwidth.

    As in the authors' code (https://github.com/nicolashoudre/RAMEN, folder
    ``pretraining/src/models/networks/encoder``):

    - The MLP of the projection is ``2 D`` wide inside and ends in a norm (``utils/ramen_utils.py``).
    - The experts' weights come from a code of length ``D``, by an MLP of ``D / 4`` inside, divided by
      a learned temperature that begins at 0.7 (``utils/ramen_utils.py``).
    - Tokens are normed before positions are added (``RamenViT.py``). That keeps the direction of the
      features alone: a spectrum twice as far from the centre of the fixed map looks nearly the same,
      and one band is hardly more than a sign, until training makes the experts' biases matter.
    - Positions are metres from the first token (``utils/pos_embed.py``).

    Not as there:

    - Resampling is by area; theirs is bilinear, reads at most four pixels for a token and knows no
      pixel that is not valid. Here coarse tokens average all of their valid pixels, and a coarse
      pixel counts in each token that it covers. This comes before the projection: both are linear,
      so the result is the same and costs less.
    - At each ground cell, the tokens of the views are averaged, since the contract asks for one.
      Theirs are joined end to end for the decoder, from four depths of the transformer
      (``pangaea-bench/pangaea/encoders/ramen_encoder.py``). A learned vector stands where a view has
      no data, and no token looks at it.
    - Dates of one sensor are views like others. Theirs are joined before the transformer, by an
      attention over the day (``RamenViT.py``). Here nothing is told the time.
    - A view has one GSD, the geometric mean of its bands'; in the paper each modality has one.
    - Values go through one fixed map for each unit. Theirs go through the mean and deviation of each
      band (``pretraining/src/data/MMEarth.py``), of which an unseen band has none.
    - The transformer has registers beside its class token, as the others of this package.
    - There is no code of radar and elevation, which have no wavelength, and no decoder: the
      objectives of this package take the place of masked reconstruction.
    - The published encoder has 768 features. The sizes here are smaller.
    """

    def __init__(
        self,
        embed_dim: int = 384,
        *,
        depth: int = 12,
        num_heads: int = 6,
        registers: int = 4,
        token_m: float = 60.0,
    ) -> None:
        """Make the encoder.

        Args:
            embed_dim: Length of the features.
            depth: Number of transformer blocks.
            num_heads: Attention heads of a transformer block.
            registers: Tokens of the transformer without a place, beside the class token.
            token_m: Width of a ground token in metres, unless the call says another.

        Raises:
            ValueError: If a token has no width, or the heads do not divide the features.
        """
        super().__init__()
        if not token_m > 0:
            raise ValueError(f'token_m must be positive metres, got {token_m}')
        self.init_args = {
            'embed_dim': embed_dim,
            'depth': depth,
            'num_heads': num_heads,
            'registers': registers,
            'token_m': token_m,
        }
        self.embed_dim = embed_dim
        self.token_m = token_m
        self.project = ChannelProjector(embed_dim)
        self.experts = ScaleExperts(embed_dim)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.no_data = nn.Parameter(0.02 * torch.randn(embed_dim))
        self.trunk = Trunk(embed_dim, depth=depth, num_heads=num_heads, registers=registers)

    def view_tokens(
        self, view: SensorSample, *, token_m: float
    ) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Make the tokens of one view.

        Args:
            view: One batched view.
            token_m: Width of a token in metres.

        Returns:
            Tokens ``(B, N, D)``, whether they have data ``(B, N)`` bool, and their grid.

        Raises:
            ValueError: If the patch is not a whole number of tokens.
        """
        centre, spread = unit_range(view['wavelength'])
        cells = cut_view(view, token_m=token_m, centre=centre, spread=spread)
        count = cells.valid.sum(dim=(-2, -1)).clamp(min=1).unsqueeze(-1)  # (B, N, 1)
        pixels = cells.pixels.sum(dim=(-2, -1)) / count  # (B, N, C)
        scale = (view['gsd'].float() / token_m).log().mean(dim=-1)
        x = self.norm(self.experts(self.project(pixels, view['wavelength']), scale))
        x = torch.where(cells.seen[..., None], x, self.no_data.to(x.dtype))
        return x, cells.seen, cells.grid

    def forward(self, views: Sequence[SensorSample], *, token_m: float | None = None) -> Features:
        """Encode views of the same patches; see :meth:`SensorEncoder.forward`.

        Raises:
            ValueError: If the patch is not a whole number of tokens, or the views differ in it.
        """
        token_m = self.token_m if token_m is None else token_m
        tokens, seen, grids = zip(*(self.view_tokens(view, token_m=token_m) for view in views))
        if len(set(grids)) > 1:
            raise ValueError(f'views of one patch must share their ground, got token grids {grids}')
        metres = cell_centres(grids[0], token_m=token_m, device=seen[0].device)
        places = sincos(metres - metres[0], self.embed_dim // 2).flatten(-2)  # (N, D)
        x = torch.cat([t + places for t in tokens], dim=1)  # (B, M * N, D)
        x, pooled = self.trunk(x, torch.cat(seen, dim=1), None)
        data = torch.stack(seen, dim=1)  # (B, M, N)
        valid = data.any(dim=1)
        weight = (data | ~valid[:, None])[..., None].to(x.dtype)  # all views where none has data
        x = x.unflatten(1, (len(views), -1))  # (B, M, N, D)
        mean = (weight * x).sum(dim=1) / weight.sum(dim=1)
        return Features(mean, pooled, grids[0], valid)


def ramen_tiny(*, token_m: float = 60.0, depth: int = 12) -> RAMEN:
    """Build the encoder with 192 features.

    Args:
        token_m: Width of a ground token in metres.
        depth: Number of transformer blocks.
    """
    return RAMEN(192, depth=depth, num_heads=3, token_m=token_m)


def ramen_small(*, token_m: float = 60.0, depth: int = 12) -> RAMEN:
    """Build the encoder with 384 features.

    Args:
        token_m: Width of a ground token in metres.
        depth: Number of transformer blocks.
    """
    return RAMEN(384, depth=depth, num_heads=6, token_m=token_m)
