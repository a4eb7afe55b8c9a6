"""Sphinx configuration: ``make docs`` builds the site in docs/_build/html. Nothing is fetched."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from ohem_d2.version import __version__  # noqa: E402

project = "ohem_d2"
author = "ohem_d2 maintainers"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "reference"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
smartquotes = False  # what stands between quotation marks is often a value

highlight_language = "none"  # of blocks that name none: commands and what they print
default_role = "py:obj"  # single backticks in docstrings are names: a link where the name is on the site
autoclass_content = "both"
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_display_short_literal_types = True
python_maximum_signature_line_length = 90
add_module_names = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"ohem_d2 {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
