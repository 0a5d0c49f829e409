"""Show the examples of docstrings as code in the reference of the site."""

import re

import griffe

# a run of lines from a prompt to the next empty line
DOCTEST = re.compile(r"^([ ]*)>>> .*\n(?:\1.+\n?)*", re.MULTILINE)


class Examples(griffe.Extension):
    """Puts fences around the doctests of every docstring."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Rewrite the docstring of one module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = DOCTEST.sub(_fenced, obj.docstring.value)


def _fenced(found: re.Match[str]) -> str:
    indent = found[1]
    return f"{indent}```pycon\n{found[0].rstrip()}\n{indent}```\n"
