"""Failures on one line and values of options, for all commands."""

import codecs
import contextlib
import functools
import importlib.util
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from featstore.errors import EXTRAS, with_extra
from featstore.places import same
from featstore.probe.errors import line, visible
from featstore.probe.solvers import L2, VALUES, Count, Options, declared, value_of

# ASCII for characters of tables and sentences; others become escapes such as \\u4e2d.
_IN_ASCII = {
    "±": "+-",
    "…": "...",
    "–": "-",
    "—": "-",
    "−": "-",
    "×": "x",
    "≤": "<=",
    "≥": ">=",
    "→": "->",
    "·": "*",
    "²": "^2",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "\u00a0": " ",
    "─": "-",
}
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
    """Return a text as a terminal of this encoding can show it, without control characters.

    >>> printable("0.512 ± 0.010", "ascii"), printable("0.512 ± 0.010", "latin-1")
    ('0.512 +- 0.010', '0.512 ± 0.010')
    """
    return visible(text).encode(encoding, _ERRORS).decode(encoding)


def size(number: float) -> str:
    """Write a number of bytes for a person.

    >>> size(900), size(19_700_000)
    ('900 B', '18.8 MiB')
    """
    for unit in ("B", "KiB", "MiB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:,.3g} GiB"


SCORE = click.option(
    "--score",
    metavar="NAME",
    help="What tables, ratios and figures are of, a column of the results: auroc, "
    "average_precision, macro_f1, weighted_f1, balanced_accuracy, kappa, top3, ...  "
    "[default: accuracy, or r2]",
)


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
    click.Option(
        ["--quiet"],
        is_flag=True,
        expose_value=False,
        callback=_remember,
        help="No progress and no notices.",
    ),
    click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        callback=_remember,
        envvar="FEATSTORE_DEBUG",
        help="Show the traceback of an error.",
    ),
]


# With more options than this, `--help` lists them in sections.
_MANY = 12
_WRITTEN = {"out", "out_dir", "format", "codec", "dtype", "resume", "overwrite", "report", "page"}
_COMPUTING = {"memory", "device", "backend", "workers", "compile", "precision", "threads"}
_COMPUTING |= {"batch_size", "device_map", "weights_dtype"}
_EVERYWHERE = {"--quiet", "--debug", "--help"}


def _section(param: click.Parameter, told: str) -> str:
    """Return the heading under which `--help` lists an option."""
    solvers, colon, _ = told.partition(": ")
    if colon and solvers.replace(", ", "").isalpha() and solvers.islower():
        return f"Options of --solver {solvers}"
    if isinstance(param.type, OutFile) or param.name in _WRITTEN:
        return "What is written"
    if param.name in _COMPUTING:
        return "How it is computed"
    return "For every command" if _EVERYWHERE & {*param.opts} else "Options"


# Seconds after which a command that has said nothing yet says that it is at work.
_SILENCE = 1.0
_WAITING = "waiting"


@contextlib.contextmanager
def _heard(ctx: click.Context) -> Iterator[None]:
    """Say on a terminal that a command is at work, if it has said nothing for a second."""
    if ctx.meta.get("quiet") or not sys.stderr.isatty():
        yield
        return
    said = [f"{ctx.info_name}: at work ..."]
    waiting = ctx.meta[_WAITING] = threading.Timer(_SILENCE, click.echo, said, {"err": True})
    waiting.daemon = True
    waiting.start()
    try:
        yield
    finally:
        waiting.cancel()


def spoken() -> None:
    """Take that something was said, so that the command need not say that it is at work."""
    waiting = click.get_current_context().meta.get(_WAITING)
    if waiting:
        waiting.cancel()


class Command(click.Command):
    """A command that takes the switches which every command takes."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.params += SWITCHES

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, in sections where they are many."""
        records = [(param, param.get_help_record(ctx)) for param in self.get_params(ctx)]
        shown = [(param, record) for param, record in records if record and record[1]]
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param, (name, told) in shown:
            section = _section(param, told) if len(shown) > _MANY else "Options"
            if section.startswith("Options of"):
                told = told.partition(": ")[2]
                told = told[:1].upper() + told[1:]
            sections.setdefault(section, []).append((name, told))
        last = sections.pop("For every command", [])
        for section, lines in [*sections.items(), ("For every command", last)]:
            if lines:
                with formatter.section(section):
                    formatter.write_dl(lines)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse a folder that is gone, and words that no option can use, before one is parsed."""
        if (gone := _gone()) and not {"-h", "--help"} & {*args}:
            raise click.UsageError(gone)
        for word in args:
            _check_word(word)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Refuse to write a file over one that is read, or over another one that is written."""
        written: list[Path] = []
        read = [_real(text) for param in self.params for text in _read_by(param, ctx)]
        for param in self.params:
            path = ctx.params.get(param.name)
            if isinstance(param.type, OutFile) and path is not None:
                if any(same(_real(path), other) for other in written):
                    raise click.UsageError(f"{path} is to be written twice; name two files")
                if any(same(_real(path), other) for other in read):
                    raise click.UsageError(f"{path} is read for it; choose another file to write")
                written.append(_real(path))
        with _heard(ctx):
            return super().invoke(ctx)


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(path))


def _read_by(param: click.Parameter, ctx: click.Context) -> list[str]:
    """Return the paths that a parameter names and its command reads, if it is of such a kind."""
    value = ctx.params.get(param.name)
    if value is None or isinstance(param.type, OutFile):
        return []
    if param.name in ("dataset", "model"):
        return [path for path in (str(value).partition(":")[2].partition("#")[0],) if path]
    if not isinstance(param.type, click.Path | Place):
        return []
    several = value if isinstance(value, tuple) else (value,)
    return [str(one) for one in several if "://" not in str(one)]


def _gone() -> str:
    """Say that the folder in which this runs is not there any more; "" where it is."""
    try:
        os.getcwd()
    except OSError:
        return "the folder in which this runs was deleted; go to another one: cd /"
    return ""


def _check_word(word: str) -> None:
    if "\0" in word:
        raise click.UsageError(f"{word!r} holds a zero byte, which no name has")
    for part in re.split("[=,]", word):
        if re.fullmatch(r"[+-]?\d{19,}", part) and not (
            len(part) < 25 and -(2**63) <= int(part) < 2**63
        ):
            raise click.UsageError(f"{part[:40]} does not fit in 64 bits: give a smaller number")
        if part.startswith("~"):
            try:
                Path(part).expanduser()
            except RuntimeError:
                raise click.UsageError(
                    f"{part} is below the home folder of nobody here: write the path in full"
                ) from None


class Group(click.Group):
    """A group whose commands fail with one line that says what to do, not with a traceback."""

    command_class = Command

    def add_to(self, family: str, command: click.Command) -> None:
        """Add a command, which `--help` lists under the name of its family."""
        self.families.setdefault(family, []).append(command)
        self.add_command(command)

    @functools.cached_property
    def families(self) -> dict[str, list[click.Command]]:
        """The commands by family, in the order of their addition."""
        return {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of commands in the order in which they are read."""
        return [str(each.name) for family in self.families.values() for each in family]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each family of commands, and the first sentence of each command's help."""
        for family, commands in self.families.items():
            with formatter.section(family):
                formatter.write_dl([(str(each.name), _sentence(each)) for each in commands])

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
        except click.ClickException as error:
            error.message = visible(error.message)
            raise
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            kept = KEPT.get(ctx.invoked_subcommand, "nothing was changed")
            click.echo(f"\nInterrupted: {kept}.", err=True)
            ctx.exit(130)
        except Exception as error:
            if ctx.meta["debug"]:
                raise
            raise _failure(error) from error


def _sentence(command: click.Command) -> str:
    """Return the first sentence of a command's help."""
    return " ".join(str(command.help).split("\n\n")[0].split())


def _show_warning(message, *place) -> None:
    """Say on one line what a library warns of, and not where in its code."""
    click.echo(f"Warning: {line(message)}", err=True)


def _lacking(error: Exception) -> str:
    """Say what a computer lacked, or was asked for beyond reason; "" for other errors."""
    message = str(error).partition("\n")[0]
    words = message.lower()
    memory = (
        "can't allocate memory",
        "cannot allocate memory",
        "not enough memory",
        "out of memory",
        "failed to map segment",
        "can't start new thread",
        "bad_alloc",
        "unable to allocate",
        "malloc of size",
    )
    # torch, Arrow and the loader have errors of their own for what is a MemoryError elsewhere
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | ImportError | OSError | SystemError)
        and any(word in words for word in memory)
    ):
        said = f" ({message})" if message else ""
        return f"there is not enough memory{said}: give less --memory, smaller batches, or more RAM"
    if isinstance(error, RecursionError):
        return "a file or value is nested too deeply to be read"
    if isinstance(error, RuntimeError) and "home directory" in words:
        return "a path begins with ~ and the name of nobody here: write the path in full"
    if isinstance(error, UnicodeEncodeError) and "surrogates" in words:
        return f"a name holds {error.object[error.start]!r}, which is no character"
    if isinstance(error, ValueError) and "embedded null" in words:
        return "a name holds a zero byte, which no file's name has"
    return ""


def _failure(error: Exception) -> click.ClickException:
    """Say on one line what went wrong; exit status 2 for arguments that cannot be used."""
    import featstore.errors
    import featstore.probe.errors

    if isinstance(error, ModuleNotFoundError):
        error = featstore.errors.ExtraMissing.of(error) or error
    message, status = str(error), 1
    errors, probing = featstore.errors, featstore.probe.errors
    usage = (errors.UsageError, errors.BadStudy, probing.UsageError)
    known = (errors.FeatstoreError, errors.StudyError, probing.ProbeError)
    if isinstance(error, usage):
        status = 2
    elif lacking := _lacking(error):
        message = lacking
    elif isinstance(error, FileNotFoundError) and (gone := _gone()):
        message = gone
    elif isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif not isinstance(error, known):
        message = (
            f"unexpected {type(error).__name__}: {message}; "
            "add --debug for the traceback, and please report it"
        )
    failure = click.ClickException(line(message))
    failure.exit_code = status
    return failure


class Place(click.ParamType):
    """A path of this machine, or a URL such as s3://bucket/mine.zarr."""

    name = "store"

    def convert(self, value, param, ctx) -> Path | str:
        """Return the path, or the URL as it is."""
        return value if "://" in str(value) else Path(value)


class Option(click.Option):
    """An option that had other names before, which work still and are not shown."""

    def __init__(self, *args, old: Sequence[str] = (), **kwargs):
        super().__init__(*args, **kwargs)
        self.old = tuple(old)

    def add_to_parser(self, parser, ctx: click.Context) -> None:
        """Let the parser know the old names too."""
        shown = self.opts
        self.opts = [*shown, *self.old]
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.opts = shown


def renamed(*names: str, old: str, **kwargs) -> Callable:
    """Declare an option that was called `old` before."""
    return click.option(*names, cls=Option, old=(old,), **kwargs)


STORE = Place()
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FORMAT = click.Choice(["zarr", "hdf5"])
CODEC = click.Choice(["none", "zstd"])
DTYPE = click.Choice(["float16", "float32"])
DEVICE = click.Choice(["auto", "cpu", "cuda"])
MEMORY = click.option("--memory", default="auto", help="What arrays may take, as 4GiB.")
ON = click.option("--device", type=DEVICE, default="auto", help="What computes.")
BACKEND = click.option(
    "--backend",
    type=click.Choice(["torch", "cupy", "numpy"]),
    default="torch",
    help="Library of arrays.",
)
OVERWRITE = click.option(
    "--overwrite", is_flag=True, help="Replace a store that holds something else."
)
COMPRESSION = click.option(
    "--codec", type=CODEC, help="Compression of a Zarr store.  [default: none]"
)
LEVEL = click.option("--level", type=float, default=0.95, help="Coverage of the intervals.")
TEST_SPLIT = click.option(
    "--test-split", help="On which split to test.  [default: test, or validation]"
)
FOLDS = click.option(
    "--folds", type=click.IntRange(2), help="Test each train row in one of K folds; no test split."
)
TEST_SHARE = click.option(
    "--test-share", type=float, help="Test on a share of the train rows, by a hash of their ids."
)
LABEL = click.option(
    "--label", help="Of several labels at once one alone, as a class.  [default: all of them]"
)
GROUPS = click.option(
    "--groups",
    metavar="COLUMN|ID|FILE",
    help="Rows that belong together (patients, slides): a column that the store keeps, id:PATTERN "
    "of row ids, or TABLE:COLUMN.",
)


def scaled(default: bool) -> Callable:
    """Declare `--standardize`, which is on for probes, and off where features count as they are."""
    return click.option(
        "--standardize/--no-standardize",
        default=default,
        help="Centre features and scale them to unit std.",
    )


SCALED = scaled(True)


class NumberList(click.ParamType):
    """Numbers separated by commas."""

    name = "list"

    def __init__(self, number: type, example: str):
        self.number, self.example = number, example

    def convert(self, value, param, ctx) -> tuple:
        """Return the numbers; what they may be is for the library to say."""
        if not isinstance(value, str):
            return value
        try:
            numbers = tuple(self.number(part) for part in value.split(",") if part.strip())
        except ValueError:
            numbers = ()
        return numbers or self.fail(f"{value!r} is not a list such as {self.example}", param, ctx)


class Penalties(NumberList):
    """Numbers separated by commas, or `auto`."""

    def convert(self, value, param, ctx) -> tuple[float, ...] | str:
        """Return the penalties, or "auto"."""
        return value if value == "auto" else super().convert(value, param, ctx)


class Seeds(NumberList):
    """A count, `5` for seeds 1 to 5, or a list, `3,7` for those two and `3,` for one."""

    def convert(self, value, param, ctx) -> tuple[int, ...]:
        """Return the seeds."""
        numbers = super().convert(value, param, ctx)
        if not isinstance(value, str) or "," in value:
            return numbers
        if numbers[0] < 1:
            self.fail(
                f"{value} seeds are none; 5 is seeds 1 to 5, {self.example} those two", param, ctx
            )
        from featstore.probe.errors import MOST_SEEDS

        if numbers[0] > MOST_SEEDS:  # before they are listed
            self.fail(
                f"{numbers[0]:,} seeds are as many probes of every mode, fraction and penalty; "
                f"give {MOST_SEEDS:,} or fewer, or a list, {numbers[0]}, for that seed alone",
                param,
                ctx,
            )
        return tuple(range(1, numbers[0] + 1))


PICTURES = (".png", ".svg", ".pdf")
# The package that writes a file.
_NEEDS = {**dict.fromkeys(PICTURES, "matplotlib"), ".parquet": "pyarrow"}


class OutFile(click.ParamType):
    """A file to write, refused before any work where its folder or suffix will not do."""

    name = "file"

    def __init__(self, *suffixes: str):
        self.suffixes = suffixes

    def convert(self, value, param, ctx) -> Path:
        """Return the path."""
        path = Path(value)
        if path.suffix.lower() not in self.suffixes:
            self.fail(f"{str(path)!r} must end in {' or '.join(self.suffixes)}", param, ctx)
        package = _NEEDS.get(path.suffix.lower())
        if package and importlib.util.find_spec(package) is None:
            told = with_extra(EXTRAS[package])
            self.fail(f"{str(path)!r} needs {package}, which is not installed: {told}", param, ctx)
        if path.is_dir():
            self.fail(f"{str(path)!r} is a folder", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"there is no folder {str(path.parent)!r}; make it first", param, ctx)
        if not os.access(path.parent, os.W_OK):
            self.fail(f"cannot write into {str(path.parent)!r}; choose another folder", param, ctx)
        return path


TABLE = OutFile(".csv", ".json", ".parquet")
PICTURE = OutFile(*PICTURES)
TABLE_OR_PICTURE = OutFile(*TABLE.suffixes, *PICTURE.suffixes)


class Names(click.ParamType):
    """Names separated by commas."""

    name = "list"

    def convert(self, value, param, ctx) -> tuple[str, ...]:
        """Return the names."""
        return tuple(value.split(",")) if isinstance(value, str) else value


KEY = "solver options"


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None:
        ctx.meta.setdefault(KEY, {})[param.name] = value


def _type_of(annotation: Any) -> Any:
    """Return what parses an option of a solver; None for a flag."""
    if annotation in (L2, Count):
        return Penalties(float, "0.001,0.01" if annotation == L2 else "5,20")
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not type(None)]
    if Sequence in map(get_origin, kinds):
        return NumberList(float, "0.05,0.1")
    if get_args(kinds[0]):
        return click.Choice(get_args(kinds[0]))
    return None if kinds[0] is bool else kinds[0]


def _metavar(annotation: Any) -> str | None:
    if annotation in (L2, Count):
        return "LIST|auto"
    return "LIST" if Sequence in map(get_origin, get_args(annotation)) else None


# Options of solvers whose own names mean something else elsewhere.
_CALLED = {"batch_size": "sgd-batch-size", "weights": "knn-weights"}


def takes_solver(command: Callable) -> Callable:
    """Declare `--solver` and every option of every solver, from the fields of their values."""
    told = f"Which probe: {_or(VALUES)}."
    made = [click.option("--solver", default=next(iter(VALUES)), help=told)]
    for each in declared():
        before = each.name.replace("_", "-")
        dashed = _CALLED.get(each.name, before)
        kind = _type_of(each.annotation)
        name = f"--{dashed}/--{each.off}" if each.off else f"--{dashed}"
        shown = {"True": dashed, "False": ""}.get(each.default, each.default)
        told = f"{', '.join(each.solvers)}: {_small(each.told)}" if each.solvers else each.told
        made.append(
            renamed(
                name,
                each.name,
                old=f"--{before}",
                type=kind,
                is_flag=kind is None,
                default=None,
                expose_value=False,
                callback=_keep,
                metavar=_metavar(each.annotation),
                help=f"{told}  [default: {shown}]" if shown else told,
            )
        )
    for option in reversed(made):
        command = option(command)
    return command


def _small(sentence: str) -> str:
    """Return a sentence as it goes on after a colon."""
    return sentence if sentence[:2].isupper() else sentence[0].lower() + sentence[1:]


def _or(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"


def solver_of(name: str) -> Options:
    """Return the solver of that name with the options that were given on the command line."""
    return value_of(name, click.get_current_context().meta.get(KEY, {}))


TAP = renamed(
    "--taps",
    "tap",
    old="--tap",
    type=Names(),
    default=(),
    metavar="LIST|all",
    help="Layers of stores without #TAP, or all.  [default: the first]",
)
DELTA = click.option(
    "--delta",
    type=float,
    default=0.9,
    help="Share of the full layer's score to keep: the delta of DR(delta).",
)


def seeds(**how) -> Callable:
    """Declare `--seeds`, of which `how` says whether it is required or has a default."""
    return click.option(
        "--seeds",
        type=Seeds(int, "3,7"),
        metavar="N|LIST",
        help="5 for seeds 1 to 5, or a list such as 3,7.",
        **how,
    )


SEEDS = seeds(default="5")


def mode(default: str) -> Callable:
    """Declare `--mode`, whose values `probe --help` lists."""
    return click.option(
        "--mode",
        type=Names(),
        default=default,
        metavar="LIST",
        help="Which features, as of `probe`.",
    )


MODE = mode("random")


def to_file(name: str, kind: click.ParamType, text: str):
    """Declare an option that names a file to write."""
    return click.option(name, type=kind, metavar="FILE", help=text)
