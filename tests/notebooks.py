"""Runs a notebook in this process, and keeps what its cells show: no Jupyter, no kernel.

`python tests/notebooks.py docs/example.ipynb` writes the outputs into the file again.
"""

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

SHOWN_AS = {"image/png": "_repr_png_", "text/html": "_repr_html_"}


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return the notebook with the outputs of its cells, run in order in the current folder."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells, count = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            outputs = _outputs("".join(cell["source"]), names, count)
            cell = cell | {"execution_count": count, "outputs": outputs}
        cells.append(cell)
    return notebook | {"cells": cells}


def _outputs(source: str, names: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Run a cell; return what it printed, and its last expression as a notebook shows it."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), f"cell {count}", "exec"), names)
        shown = compile(ast.Expression(last.value), f"cell {count}", "eval") if last else "None"
        value = eval(shown, names)
    outputs = []
    if printed.getvalue():
        text = _lines(printed.getvalue())
        outputs.append({"name": "stdout", "output_type": "stream", "text": text})
    if value is not None:
        shown = {"data": _shown(value), "execution_count": count, "metadata": {}}
        outputs.append(shown | {"output_type": "execute_result"})
    return outputs


def _shown(value: object) -> dict[str, Any]:
    for kind, method in SHOWN_AS.items():
        if hasattr(value, method):
            made = getattr(value, method)()
            picture = isinstance(made, bytes)
            return {kind: base64.b64encode(made).decode() if picture else _lines(made)}
    return {"text/plain": _lines(repr(value))}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def rewrite(path: Path) -> None:
    """Run a notebook in an empty folder, with an empty store root, and save its outputs."""
    notebook = json.loads(path.read_text())
    path = path.resolve()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.environ["FEATSTORE_HOME"] = folder
        made = executed(notebook)
    path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    rewrite(Path(sys.argv[1]))
