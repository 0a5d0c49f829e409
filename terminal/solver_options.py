"""Options that only some solvers have: not passed on unless they are given."""

from collections.abc import Callable
from typing import Any

import click

KEY = "solver options"


def solver_option(*names: str, **attributes: Any) -> Callable:
    """Declare an option of some solvers, as `click.option` does."""

    def keep(ctx: click.Context, param: click.Parameter, value):
        if value is not None:
            ctx.meta.setdefault(KEY, {})[param.name] = value

    return click.option(*names, expose_value=False, callback=keep, **attributes)


def solver_options() -> dict[str, Any]:
    """Return those that were given, by name."""
    return click.get_current_context().meta.get(KEY, {})
