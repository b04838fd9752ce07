# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""TODO."""
