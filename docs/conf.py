"""How the documentation is built: the guides beside this file, and a reference from the docstrings.

python -m sphinx -W --keep-going docs site                  # site/index.html; a link that leads nowhere is an error
python -m sphinx -b linkcheck docs site/linkcheck           # and the links to other places
"""

import inspect
import os
import re

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on this machine's CPU

import dhm_keras

project = "dhm_keras"
version = release = dhm_keras.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
exclude_patterns = ["_templates"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"dhm_keras {version}"
autodoc_member_order = "groupwise"
autodoc_typehints = "none"
autodoc_inherit_docstrings = False  # what Keras calls is Keras's to explain
autosummary_ignore_module_all = False
napoleon_custom_sections = [("Attributes", "params_style")]

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)(?=(\w?))")


def from_markdown(app, what, name, obj, options, lines):
    """A docstring's code, Markdown, as reStructuredText has it."""
    as_code = lambda code: f"``{code[1]}``" + ("\\ " if code[2] else "")  # `Stage`s
    lines[:] = CODE.sub(as_code, FENCE.sub(block, "\n".join(lines))).split("\n")


def block(fence):
    indent, language, code = fence.groups()
    inner = "\n".join(f"    {line}" if line else line for line in code.split("\n"))
    return f"{indent}.. code-block:: {language or 'text'}\n\n{inner}"


def of_init(app, what, name, obj, options, signature, returned):
    """The arguments of a class that Keras's `__new__` hides."""
    if what == "class" and signature == "(*args, **kwargs)":
        _, *arguments = inspect.signature(obj.__init__).parameters.values()
        return str(inspect.Signature(arguments)), returned


def setup(app):
    app.connect("autodoc-process-docstring", from_markdown, priority=400)  # before napoleon's
    app.connect("autodoc-process-signature", of_init)
