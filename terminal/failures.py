"""Failures as a person wants them: one line that says what to do, and an exit status.

What is printed is never lost to a terminal that cannot write it: characters that an encoding lacks
are written in ASCII.
"""

import codecs
import sys
import warnings

import click

# ASCII for characters of tables and sentences; others become escapes such as \\u4e2d.
_IN_ASCII = {
    "±": "+-", "…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "≤": "<=", "≥": ">=", "→": "->",
    "·": "*", "²": "^2", "‘": "'", "’": "'", "“": '"', "”": '"', "\u00a0": " ", "─": "-",
}  # fmt: skip
_ERRORS = "featstore.in_ascii"


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Replace the characters that an encoding lacks; what `codecs` calls in place of raising."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    piece = error.object[error.start : error.end]
    plain = (_IN_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in piece)
    return "".join(plain), error.end


codecs.register_error(_ERRORS, _in_ascii)


def printable(text: str, encoding: str) -> str:
    """Return a text as a terminal of this encoding can show it.

    >>> printable("0.512 ± 0.010", "ascii"), printable("0.512 ± 0.010", "latin-1")
    ('0.512 +- 0.010', '0.512 ± 0.010')
    """
    return text.encode(encoding, _ERRORS).decode(encoding)


KEPT = {
    "extract": "every block committed so far is kept; run the same command again to go on",
    "quickstart": "every block committed so far is kept; run the same command again to go on",
    "import": "every block committed so far is kept; run the same command again to go on",
    "study": "every part finished so far is kept; run the same command again to go on",
    "compare": "finished probes are in --out-dir, if given; run the same command again to go on",
    "probe": "finished probes are in the file of --out, if one was named; --resume solves the rest",
}


def _remember(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[param.name] = value or ctx.meta.get(param.name, False)


SWITCHES = [
    click.Option(["--quiet"], is_flag=True, expose_value=False, callback=_remember,
                 help="No progress and no notices."),
    click.Option(["--debug"], is_flag=True, expose_value=False, callback=_remember,
                 envvar="FEATSTORE_DEBUG", help="Show the traceback of an error."),
]  # fmt: skip


class Command(click.Command):
    """A command that takes the switches which every command takes."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.params += SWITCHES


class Group(click.Group):
    """A group whose commands fail with one line that says what to do, not with a traceback."""

    command_class = Command

    def main(self, *args, **kwargs):
        """Run the command line on streams that take any character."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors=_ERRORS)
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context):
        """Run the command; turn what the library raises into a message and an exit status."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            kept = KEPT.get(ctx.invoked_subcommand, "nothing was changed")
            click.echo(f"\nInterrupted: {kept}.", err=True)
            ctx.exit(130)
        except Exception as error:
            if ctx.meta["debug"]:
                raise
            raise _failure(error) from error


def _show_warning(message, *place) -> None:
    """Say on one line what a library warns of, and not where in its code."""
    click.echo(f"Warning: {message}", err=True)


def _failure(error: Exception) -> click.ClickException:
    """Say on one line what went wrong; exit status 2 for arguments that cannot be used."""
    import featstore.errors
    import probe.errors
    import studies.errors

    message, status = str(error), 1
    packages = (featstore.errors, probe.errors, studies.errors)
    known = (featstore.errors.FeatstoreError, probe.errors.ProbeError, studies.errors.StudyError)
    if isinstance(error, tuple(package.UsageError for package in packages)):
        status = 2
    elif isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif not isinstance(error, known):
        message = (
            f"unexpected {type(error).__name__}: {message}; "
            "add --debug for the traceback, and please report it"
        )
    failure = click.ClickException(message)
    failure.exit_code = status
    return failure
