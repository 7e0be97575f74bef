"""How `make docs` builds the site: Sphinx, MyST-NB, autodoc, furo.

The sources are the whole repository, so that links from one Markdown page to
another, to a picture or to a program are the same on the site and in the
repository. Nothing on a page is fetched from elsewhere.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

# For autodoc and for the kernels that run the guides. PyTorch, since it
# compiles nothing: on JAX and TensorFlow nothing runs long enough to pay.
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Several kernels run beside each other, each with one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

project = "keras_dblocks"
author = "The keras_dblocks authors"
copyright = author  # noqa: A001
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "markdown_docstrings",
    "public_names",
]
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "applications/*/README.md",
    "tests/golden/README.md",
    "CONTRIBUTING.md",
]
exclude_patterns = [".*", "**/.*", "build", "dist", "runs", "**/__pycache__"]

html_theme = "furo"
html_title = "keras_dblocks"
html_copy_source = False
html_use_index = False  # nothing links to it; the search finds names
templates_path = ["_templates"]
# The first page is docs/index.html, as the sources lie.
html_additional_pages = {"index": "redirect.html"}
highlight_language = "none"  # of formulas and commands

myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_merge_streams = True
nb_output_stderr = "remove"  # what a backend says of the machine
nb_number_source_lines = False

autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say what they mean
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Call arguments", "params_style")]
