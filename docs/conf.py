# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Sphinx configuration: ``sphinx-build docs docs/_build``."""

project = 'torchgeo_anysensor'
author = 'torchgeo_anysensor contributors'
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
exclude_patterns = ['_build']
myst_heading_anchors = 3  # links to headings, as on the web page of a repository
# Types are in the signatures; napoleon reads the Google style of the docstrings
autodoc_typehints = 'description'
