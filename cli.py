"""The command line: the group and its commands, each of which lies in `terminal/commands/`.

Tables go to stdout, progress and notices to stderr. The libraries are imported inside the
commands, so that `featstore --help` answers at once.
"""

import click

from terminal.commands.bench import bench
from terminal.commands.cka import cka
from terminal.commands.classes import classes
from terminal.commands.compare import compare
from terminal.commands.convert import convert
from terminal.commands.export import export
from terminal.commands.extract import extract
from terminal.commands.gc import gc
from terminal.commands.import_store import import_
from terminal.commands.merge import merge
from terminal.commands.predict import predict
from terminal.commands.probe import probe
from terminal.commands.quickstart import quickstart
from terminal.commands.redundancy import redundancy
from terminal.commands.report import report
from terminal.commands.rm import rm
from terminal.commands.spectrum import spectrum
from terminal.commands.stores import info, ls, verify
from terminal.commands.study import study
from terminal.commands.taps import taps
from terminal.failures import SWITCHES, Group

COMMANDS = (
    extract,
    taps,
    import_,
    probe,
    predict,
    redundancy,
    cka,
    classes,
    spectrum,
    compare,
    study,
    report,
    bench,
    ls,
    info,
    verify,
    convert,
    export,
    merge,
    rm,
    gc,
    quickstart,
)


@click.group(
    cls=Group, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.version_option(package_name="featstore")
def main() -> None:
    """Extract a backbone's features once, then probe hundreds of subsets of them at once.

    \b
    Example:
      featstore extract --model resnet50 --dataset cifar100
      featstore probe --fractions 0.01,0.05,0.1 --seeds 5
    """


main.params += SWITCHES
for command in COMMANDS:
    main.add_command(command)


if __name__ == "__main__":
    main(prog_name="featstore")
