# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Run with ``python -m torchgeo_anysensor``."""

from .main import main

main()
