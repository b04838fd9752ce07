# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""An encoder for any optical sensor, at any resolution."""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import torch
from einops import rearrange
from torch import Tensor, nn

from ..types import SensorSample
from .base import Features, SensorEncoder
from .codes import AcquisitionCode, BandCode, Fact, known_facts
from .detail import DetailBranch
from .ground import Cells, cut_view
from .interpolation import SpectralJoin, join_wavelengths
from .spectral import FiLM, SpatialBasis, unit_range
from .trunk import Trunk, cell_centres

#: Length of the code of a band.
CODE_DIM = 128
#: Vectors that attend to the bands of a ground cell.
LATENTS = 4
#: How often they do.
LOOKS = 2
#: Tokens of the transformer without a place, beside the class token.
REGISTERS = 4
#: Makes the codes of bands, given their length.
CodeBuilder = Callable[[int], BandCode]


class CellView(TypedDict):
    """One view, cut into ground cells: tensors alone, of which no value decides a shape."""

    pixels: Tensor  #: ``(B, N, C, p, p)`` beside the centre of their range, 0 where not valid
    valid: Tensor  #: ``(B, N, p, p)`` bool
    wavelength: Tensor  #: ``(C,)`` or ``(B, C)`` um
    bandwidth: Tensor  #: ``(C,)`` or ``(B, C)`` um
    gsd: Tensor  #: ``(C,)`` or ``(B, C)`` m
    known: Tensor  #: ``(B, 4)`` of the acquisition; see :func:`~.codes.known_facts`


class CellEncoder(nn.Module):
    """The network of :class:`AnySensorViT`, from cells on: what is compiled and exported."""

    def __init__(
        self,
        embed_dim: int,
        *,
        depth: int,
        num_heads: int,
        band_dim: int,
        code: BandCode,
        facts: Sequence[Fact],
    ) -> None:
        """Make the network; arguments as for :class:`AnySensorViT`."""
        super().__init__()
        self.band_code = code  # `code` is taken in a graph module
        self.acquisition = AcquisitionCode(CODE_DIM, facts=facts) if facts else None
        self.basis = SpatialBasis(band_dim)
        self.film = FiLM(band_dim, code_dim=CODE_DIM)
        self.spectral = SpectralJoin(
            band_dim, out_dim=embed_dim, plain_dim=band_dim, latents=LATENTS, depth=LOOKS, heads=4
        )
        self.trunk = Trunk(embed_dim, depth=depth, num_heads=num_heads, registers=REGISTERS)

    def codes(self, view: CellView) -> Tensor:
        """Encode the bands of a view ``(C, code)``, or ``(B, C, code)`` if they differ by sample."""
        code: Tensor = self.band_code(view['wavelength'], view['bandwidth'], view['gsd'])
        if self.acquisition is not None:
            code = code + self.acquisition(view['known']).unsqueeze(1)
        return code

    def bands(self, view: CellView) -> tuple[Tensor, Tensor, Tensor]:
        """Look at each band at each cell.

        Args:
            view: One view.

        Returns:
            What the pixels show ``(B, N, C, d)``, band tokens of it ``(B, N, C, d)``, and whether
            the cell has data ``(B, N, C)`` bool.
        """
        # The kernels are linear: to divide what they give is less than to divide all pixels
        per_unit = 1 / unit_range(view['wavelength'])[1].squeeze(-1).unsqueeze(-3)  # ([B,] 1, C, 1)
        y = self.basis(view['pixels'], view['valid'])
        y = y * per_unit.to(y.dtype)
        seen = view['valid'].flatten(-2).any(dim=-1, keepdim=True).expand(y.shape[:-1])
        return y, self.film(y, self.codes(view)), seen

    def forward(
        self, views: Sequence[CellView], positions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode.

        Args:
            views: One or more, on the same cells.
            positions: ``(N, 2)`` of the cells, in metres.

        Returns:
            Tokens ``(B, N, D)``, the pooled vector ``(B, D)``, and where a token has seen something
            ``(B, N)`` bool.
        """
        looked = zip(*(self.bands(view) for view in views))
        plain, tokens, seen = (x[0] if len(x) == 1 else torch.cat(x, dim=2) for x in looked)
        wavelength = join_wavelengths([view['wavelength'] for view in views], seen.shape[0])
        valid = seen.any(dim=-1)
        x, pooled = self.trunk(self.spectral(plain, tokens, seen, wavelength), valid, positions)
        return x, pooled, valid


class AnySensorViT(SensorEncoder):
    """A vision transformer that is told what its bands are.

    Each band of each grid becomes a token at each ground cell, from its own pixels at their own
    resolution. At each cell, the spectrum that the bands show is interpolated to fixed wavelengths,
    and a few latents attend to the set of all band tokens, of all grids, all sensors and all dates;
    a vision transformer follows. Nothing in it depends on the number of
    bands, their order, the pixel size, the size of the patch or where on the ground the patch
    begins. Pixels are read where they lie: a view may be off the patch by ``dx`` and ``dy``.

    :meth:`cut` does what depends on the numbers in a view, and :attr:`cells` the rest: compile and
    export that one.
    """

    def __init__(
        self,
        embed_dim: int = 384,
        *,
        depth: int = 12,
        num_heads: int = 6,
        band_dim: int = 128,
        token_m: float = 60.0,
        code: CodeBuilder = BandCode,
        facts: Sequence[Fact] = (),
        detail_dim: int = 0,
    ) -> None:
        """Make the encoder.

        Args:
            embed_dim: Length of the features.
            depth: Number of transformer blocks.
            num_heads: Attention heads of a transformer block.
            band_dim: Length of a band token.
            token_m: Width of a ground token in metres, unless the call says another.
            code: Makes the band codes of a length.
            facts: What to know of an acquisition besides its pixels: its ``'time'`` of the year,
                its ``'place'`` on the globe, its processing ``'level'``. By default nothing: sensors
                that share place and time would agree in a contrast without a look at the image.
            detail_dim: Features of a cell of :meth:`detail`; 0 for an encoder without it.

        Raises:
            ValueError: If a token has no width, the heads do not divide the features, or a fact is
                none of these.
        """
        super().__init__()
        if not token_m > 0:
            raise ValueError(f'token_m must be positive metres, got {token_m}')
        sizes = {'depth': depth, 'num_heads': num_heads, 'band_dim': band_dim}
        codes = code(CODE_DIM)
        self.init_args = {'embed_dim': embed_dim, **sizes, 'token_m': token_m}
        self.init_args |= {'code': type(codes), 'facts': list(facts), 'detail_dim': detail_dim}
        self.embed_dim = embed_dim
        self.token_m = token_m
        self.cells = CellEncoder(embed_dim, **sizes, code=codes, facts=facts)
        self.detail_dim = detail_dim
        self.fine = DetailBranch(detail_dim, code_dim=CODE_DIM) if detail_dim else None

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile :attr:`cells`, with the arguments of :func:`torch.compile`."""
        self.cells.compile(*args, **kwargs)

    def cut(
        self, views: Sequence[SensorSample], *, token_m: float | None = None
    ) -> tuple[list[CellView], Tensor, tuple[int, int]]:
        """Cut views of the same patches into cells.

        Args:
            views: As for :meth:`SensorEncoder.forward`.
            token_m: Width of a cell in metres, if not the encoder's own.

        Returns:
            The arguments of :attr:`cells`, and the grid of cells.

        Raises:
            ValueError: If the patch is not a whole number of cells, or the views differ in it.
        """
        token_m = self.token_m if token_m is None else token_m
        cells = [
            cut_view(view, token_m=token_m, centre=unit_range(view['wavelength'])[0])
            for view in views
        ]
        grids = {each.grid for each in cells}
        if len(grids) > 1:
            raise ValueError(
                f'views of one patch must share their ground, got token grids {sorted(grids)}'
            )
        grid = cells[0].grid
        positions = cell_centres(grid, token_m=token_m, device=cells[0].pixels.device)
        return [_cell_view(*pair) for pair in zip(cells, views)], positions, grid

    def detail(self, views: Sequence[SensorSample], *, detail_m: float) -> Tensor:
        """Encode the pixels of views by themselves; see :meth:`SensorEncoder.detail`."""
        if self.fine is None:
            return super().detail(views, detail_m=detail_m)
        ranges = [unit_range(view['wavelength']) for view in views]
        cells = [
            cut_view(view, token_m=detail_m, centre=centre, spread=spread)
            for view, (centre, spread) in zip(views, ranges)
        ]
        codes = [self.cells.codes(_cell_view(*pair)) for pair in zip(cells, views)]
        rows, cols = cells[0].grid
        found = self.fine(list(zip(cells, codes, [view['wavelength'] for view in views])))
        return rearrange(found, 'b (h w) e -> b e h w', h=rows, w=cols)

    def detail_parts(self) -> list[nn.Module]:
        """The branch; see :meth:`SensorEncoder.detail_parts`."""
        return [] if self.fine is None else [self.fine]

    def forward(self, views: Sequence[SensorSample], *, token_m: float | None = None) -> Features:
        """Encode views of the same patches; see :meth:`SensorEncoder.forward`.

        Raises:
            ValueError: If the patch is not a whole number of tokens, or the views differ in it.
        """
        cells, positions, grid = self.cut(views, token_m=token_m)
        tokens, pooled, valid = self.cells(cells, positions)
        return Features(tokens, pooled, grid, valid)


def _cell_view(cells: Cells, view: SensorSample) -> CellView:
    """What the network gets of a view."""
    return CellView(
        pixels=cells.pixels,
        valid=cells.valid,
        wavelength=view['wavelength'],
        bandwidth=view['bandwidth'],
        gsd=view['gsd'],
        known=known_facts(view),
    )


def anysensor_vit_tiny(
    *, token_m: float = 60.0, depth: int = 12, detail_dim: int = 0
) -> AnySensorViT:
    """Build the encoder with 192 features.

    Args:
        token_m: Width of a ground token in metres.
        depth: Number of transformer blocks.
        detail_dim: See :class:`AnySensorViT`.
    """
    return AnySensorViT(
        192, depth=depth, num_heads=3, band_dim=64, token_m=token_m, detail_dim=detail_dim
    )


def anysensor_vit_small(
    *, token_m: float = 60.0, depth: int = 12, detail_dim: int = 0
) -> AnySensorViT:
    """Build the encoder with 384 features.

    Args:
        token_m: Width of a ground token in metres.
        depth: Number of transformer blocks.
        detail_dim: See :class:`AnySensorViT`.
    """
    return AnySensorViT(
        384, depth=depth, num_heads=6, band_dim=128, token_m=token_m, detail_dim=detail_dim
    )


def anysensor_vit_base(
    *, token_m: float = 60.0, depth: int = 12, detail_dim: int = 0
) -> AnySensorViT:
    """Build the encoder with 768 features.

    Args:
        token_m: Width of a ground token in metres.
        depth: Number of transformer blocks.
        detail_dim: See :class:`AnySensorViT`.
    """
    return AnySensorViT(
        768, depth=depth, num_heads=12, band_dim=256, token_m=token_m, detail_dim=detail_dim
    )
