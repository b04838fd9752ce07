# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Pictures of samples."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from ..types import IGNORE_INDEX


def true_color(rgb: Tensor, valid: Tensor) -> Tensor:
    """Stretch reflectance to a picture.

    Args:
        rgb: ``(3, H, W)``.
        valid: ``(H, W)`` bool.

    Returns:
        ``(H, W, 3)`` in 0-1, stretched between the 2nd and 98th percentile of what is valid.
    """
    values = rgb[:, valid]
    if values.numel() == 0:
        return torch.full((*valid.shape, 3), 0.5)
    low, high = np.quantile(values.numpy(), (0.02, 0.98))
    picture = ((rgb - low) / max(high - low, 1e-6)).clamp(0, 1)
    return torch.where(valid, picture, torch.tensor(0.5)).permute(1, 2, 0)


def draw_panels(
    panels: Iterable[tuple[str, Any]], *, show_titles: bool, suptitle: str | None
) -> Figure:
    """Draw pictures side by side.

    Args:
        panels: Titles and pictures: ``(H, W, 3)`` in 0-1, ``(H, W)`` numbers, or ``(H, W)`` int64
            classes, which share one palette; classes that are ignored stay white.
        show_titles: Whether to name the pictures.
        suptitle: Title of the figure.

    Returns:
        The figure.
    """
    panels = list(panels)
    fig, axes = plt.subplots(
        ncols=len(panels), squeeze=False, figsize=(4 * len(panels), 4), layout='constrained'
    )
    for ax, (title, panel) in zip(axes[0], panels):
        if panel.dtype == torch.int64:
            classes = np.ma.masked_equal(panel.numpy(), IGNORE_INDEX)
            ax.imshow(classes, cmap='tab10', vmin=0, vmax=9, interpolation='nearest')
        else:
            ax.imshow(np.asarray(panel), interpolation='nearest')
        ax.axis('off')
        if show_titles:
            ax.set_title(title)
    if suptitle is not None:
        fig.suptitle(suptitle)
    return fig
