"""Docstrings in Keras's manner, Markdown, as the reStructuredText of autodoc.

Sections (`Args:`, `Returns:`) are left to napoleon, which runs afterwards.
"""

import inspect
import re
import textwrap

import public_names

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
TABLE = re.compile(r"(?:^ *\|.*\|$\n?)+", re.MULTILINE)
# What is marked: code, a link, a place in this repository's pages.
INLINE = re.compile(
    r"`(?P<code>[^`]+)`"
    r"|\[(?P<text>[^\]]+)\]\((?P<address>https?://[^)\s]+)\)"
    r"|(?P<page>docs/(?P<name>\w+)\.md(?:#(?P<anchor>[\w-]+))?)"
)


def converted(text):
    """A docstring without indentation, with its fences, tables and marks."""
    parts, end = [], 0
    for found in FENCE.finditer(text):
        parts += [_prose(text[end : found.start()]), _code(*found.groups())]
        end = found.end()
    return "".join([*parts, _prose(text[end:])])


def _code(indent, language, code):
    code = textwrap.indent(textwrap.dedent(code), "    ")
    block = f".. code-block:: {language or 'none'}\n\n{code}"
    return textwrap.indent(block, indent)


def _prose(text):
    parts, end = [], 0
    for found in TABLE.finditer(text):
        parts += [_inline(text[end : found.start()]), _table(found[0])]
        end = found.end()
    return "".join([*parts, _inline(text[end:])])


def _table(text):
    rows = [line.strip(" |").split(" | ") for line in text.splitlines()]
    del rows[1]  # the rule below the head
    lines = ["", ".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        for number, cell in enumerate(row):
            mark = "   * - " if number == 0 else "     - "
            lines.append(mark + _inline(cell.strip()))
    return "\n".join([*lines, "", ""])


def _inline(text):
    parts, end = [], 0
    for found in INLINE.finditer(text):
        parts += [_escaped(text[end : found.start()]), _marked(found)]
        end = found.end()
    return "".join([*parts, _escaped(text[end:])])


def _marked(found):
    if found["code"]:
        target = public_names.path_of(found["code"])
        if target is None:
            return f"``{found['code']}``"
        return f":py:obj:`{found['code']} <{target}>`"
    if found["text"]:
        return f"`{found['text']} <{found['address']}>`__"
    anchor = f"#{found['anchor']}" if found["anchor"] else ""
    # The pages of the reference lie in a folder below the others.
    address = f"../{found['name']}.html{anchor}"
    return f"`{found['page']} <{address}>`__"


def _escaped(text):
    """Prose in which stars, bars and a last underscore mean nothing."""
    return re.sub(r"[*|]|(?<=\w)_(?!\w)", r"\\\g<0>", text)


def _convert(app, what, name, thing, options, lines):
    lines[:] = converted("\n".join(lines)).splitlines()


def _signature(app, what, name, thing, options, arguments, returns):
    """That of `__init__`; Keras and contracts have a `__new__` of any.

    Types are left to the docstring, which says what they mean.
    """
    if what != "class" or not inspect.isclass(thing):
        return None
    parameters = list(inspect.signature(thing.__init__).parameters.values())
    bare = [p.replace(annotation=p.empty) for p in parameters[1:]]
    return str(inspect.Signature(bare)), None


def setup(app):
    app.connect("autodoc-process-docstring", _convert, priority=400)
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
