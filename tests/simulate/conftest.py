# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

from pathlib import Path

import pytest

from torchgeo_anysensor.simulate import simulate_scenes


@pytest.fixture(scope='session')
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small place: spring is clear, summer has clouds and a Landsat swath edge."""
    return simulate_scenes(
        tmp_path_factory.mktemp('simulated') / 'scenes', seed=5, places=1, size_m=1800
    )
