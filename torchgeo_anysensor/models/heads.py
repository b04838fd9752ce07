# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""From the features of an encoder to a map of classes.

Letters as in :mod:`torchgeo_anysensor.types`.
"""

import torch.nn.functional as F
from einops import rearrange
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from torch import Tensor, nn

from .base import Features


def as_map(features: Features) -> Tensor:
    """Lay the tokens out on the ground, as ``(B, D, rows, columns)``."""
    rows, cols = features.grid
    return rearrange(features.tokens, 'b (h w) d -> b d h w', h=rows, w=cols)


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolate ``(B, D, h, w)`` to rows and columns."""
    return F.interpolate(x, size=size, mode='bilinear', align_corners=False)


class _Detail(nn.Module):
    """What the detail adds to a map, cell by cell."""

    def __init__(self, detail_dim: int, out_dim: int) -> None:
        super().__init__()
        self.standardise = nn.BatchNorm2d(detail_dim, affine=False)
        self.project = nn.Conv2d(detail_dim, out_dim, kernel_size=1)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Give ``(B, out_dim, H, W)``.

        Raises:
            ValueError: If the encoder was not asked for the detail.
        """
        if features.detail is None:
            raise ValueError('the head has a detail_dim: encode with a detail_m')
        return resize(self.project(self.standardise(features.detail)), size)


class LinearHead(nn.Module):
    """Classify each token by itself; what it can do, the encoder has done.

    Tokens are standardised first, by running statistics, as in the linear probe of MAE (He et al.
    2022, https://arxiv.org/abs/2111.06377): what differs between tokens can be small beside what
    they share.
    """

    def __init__(self, embed_dim: int, num_classes: int, *, detail_dim: int = 0) -> None:
        """Make the head.

        Args:
            embed_dim: Length of a token.
            num_classes: Number of classes.
            detail_dim: Features of the detail, if the encoder is asked for it.
        """
        super().__init__()
        self.standardise = nn.BatchNorm2d(embed_dim, affine=False)
        self.classify = nn.Conv2d(embed_dim, num_classes, kernel_size=1)
        self.detail = _Detail(detail_dim, num_classes) if detail_dim else None

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Give logits.

        Args:
            features: Of an encoder.
            size: Rows and columns of the map.

        Returns:
            ``(B, K, H, W)``.
        """
        logits = resize(self.classify(self.standardise(as_map(features))), size)
        return logits if self.detail is None else logits + self.detail(features, size)


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation of ``(B, D, H, W)`` over ``D``."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return rearrange(super().forward(rearrange(x, 'b d h w -> b h w d')), 'b h w d -> b d h w')


class SimplePyramid(nn.Module):
    """Maps at 4, 2, 1 and 1/2 times the token grid, all from the last tokens.

    As in ViTDet (Li et al. 2022, https://arxiv.org/abs/2203.16527).

    Attributes:
        channels: Features of each map, finest first.
    """

    def __init__(self, dim: int) -> None:
        """Make the pyramid above tokens of length ``dim``."""
        super().__init__()
        self.channels = [dim // 4, dim // 2, dim, dim]
        self.levels = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(dim, dim // 2, kernel_size=2, stride=2),
                    LayerNorm2d(dim // 2),
                    nn.GELU(),
                    nn.ConvTranspose2d(dim // 2, dim // 4, kernel_size=2, stride=2),
                ),
                nn.ConvTranspose2d(dim, dim // 2, kernel_size=2, stride=2),
                nn.Identity(),
                nn.MaxPool2d(kernel_size=2),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Make the maps of ``x`` ``(B, D, rows, columns)``, both even."""
        return [level(x) for level in self.levels]


class SMPDecoderHead(nn.Module):
    """The FPN decoder of segmentation-models-pytorch above a simple feature pyramid.

    Tokens are standardised first, as in :class:`LinearHead`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        *,
        pyramid_channels: int = 128,
        segmentation_channels: int = 64,
        dropout: float = 0.2,
        detail_dim: int = 0,
    ) -> None:
        """Make the head.

        Args:
            embed_dim: Length of a token, a multiple of 4.
            num_classes: Number of classes.
            pyramid_channels: Features of the decoder's top-down path.
            segmentation_channels: Features before the classifier, a multiple of 32.
            dropout: Share of the features to drop before the classifier.
            detail_dim: Features of the detail, if the encoder is asked for it; they are added
                before the classifier.

        Raises:
            ValueError: If a length is not such a multiple.
        """
        super().__init__()
        if embed_dim % 4 or segmentation_channels % 32:
            raise ValueError(
                'embed_dim must be a multiple of 4 and segmentation_channels of 32, got '
                f'{embed_dim=}, {segmentation_channels=}'
            )
        self.standardise = nn.BatchNorm2d(embed_dim, affine=False)
        self.pyramid = SimplePyramid(embed_dim)
        self.decoder = FPNDecoder(
            encoder_channels=self.pyramid.channels,
            encoder_depth=len(self.pyramid.channels),
            pyramid_channels=pyramid_channels,
            segmentation_channels=segmentation_channels,
            dropout=dropout,
        )
        self.detail = _Detail(detail_dim, segmentation_channels) if detail_dim else None
        self.classify = nn.Conv2d(segmentation_channels, num_classes, kernel_size=1)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Give logits.

        Args:
            features: Of an encoder; a grid of odd size is repeated at its edge and cut again.
            size: Rows and columns of the map.

        Returns:
            ``(B, K, H, W)``.
        """
        rows, cols = features.grid
        x = F.pad(self.standardise(as_map(features)), (0, cols % 2, 0, rows % 2), mode='replicate')
        x = self.decoder(self.pyramid(x))[..., : 4 * rows, : 4 * cols]
        if self.detail is None:
            return resize(self.classify(x), size)
        logits: Tensor = self.classify(resize(x, size) + self.detail(features, size))
        return logits
