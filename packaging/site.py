"""Make the pages of the site that are no files of docs: the first, the reference, the changelog."""

import ast
import re
from pathlib import Path

import click

from featstore.cli import main

ROOT = Path(__file__).parents[1]


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Fill the pages that are made of other files of the repository."""
    match page.file.src_uri:
        case "index.md":
            return _linked((ROOT / "README.md").read_text(), config["repo_url"])
        case "reference/commands.md":
            return markdown + "".join(_help(main, name) for name in ["", *main.commands])
        case "reference/python.md":
            return (
                markdown
                + _reference("featstore", ROOT / "featstore/__init__.pyi")
                + _reference("featstore.probe", ROOT / "probe/__init__.pyi")
            )
        case "releases.md":
            changes = (ROOT / "CHANGELOG.md").read_text()
            return markdown + re.sub(r"^#", "##", changes, flags=re.MULTILINE)
    # GitHub wants a pipe of a table escaped in code too, and Python-Markdown does not
    return re.sub(r"`[^`\n]*`", lambda code: code[0].replace(r"\|", "|"), markdown)


def _help(command: click.Group, name: str) -> str:
    """A heading, and the help of one command as a terminal shows it; of the whole for ""."""
    called = f"featstore {name}".rstrip()
    of = command.commands[name] if name else command
    text = of.get_help(click.Context(of, info_name=called, terminal_width=88))
    return f"\n## {called}\n\n```text\n{text}\n```\n"


def _linked(readme: str, repository: str) -> str:
    """The README with links as the site has them."""
    readme = re.sub(r"\]\(docs/", "](", readme)
    readme = re.sub(r"\((?:https://raw\S+/)docs/", "(", readme)
    return re.sub(r"\]\(([A-Z]\w+\.\w+)\)", rf"]({repository}/blob/main/\1)", readme)


def _reference(package: str, stub: Path) -> str:
    """A heading, and a directive for each name that the stub gives."""
    found = []
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            module = f"{package}.{node.module}" if node.level else str(node.module)
            found += [(each.asname or each.name, module) for each in node.names]
    lines = [f"\n\n## {package}\n"]
    for name, module in sorted(found):
        shown = f"    options:\n      heading: {package}.{name}\n      toc_label: {name}\n"
        lines.append(f"::: {module}.{name}\n{shown}")
    return "\n".join(lines)
