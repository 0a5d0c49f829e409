"""The command line: the group and its commands, a module for each family of them.

Tables go to stdout, progress and notices to stderr. The libraries are imported inside the
commands, so that `featstore --help` answers at once.
"""

import click

from featstore import __version__
from featstore.cli import analyse, extract, geometry, learning, probe, retrieve, stores, study
from featstore.cli.common import SWITCHES, Group

COMMANDS = (
    extract.extract,
    extract.taps,
    extract.import_,
    probe.probe,
    probe.predict,
    learning.learn,
    analyse.redundancy,
    analyse.cka,
    analyse.classes,
    analyse.spectrum,
    analyse.attribute,
    geometry.geometry,
    geometry.universality,
    retrieve.retrieve,
    analyse.compare,
    study.study,
    study.report,
    study.bench,
    stores.ls,
    stores.info,
    stores.verify,
    stores.convert,
    stores.export,
    stores.merge,
    stores.rm,
    stores.gc,
    stores.push,
    stores.pull,
    probe.quickstart,
)


@click.group(
    cls=Group, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.version_option(__version__, prog_name="featstore")
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
