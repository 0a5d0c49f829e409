"""The command line: the group and its commands, a module for each family of them.

Tables go to stdout, progress and notices to stderr. The libraries are imported inside the
commands, so that `featstore --help` answers at once.
"""

import os

# A thread that waits for another one sleeps, in this process: beside other work one that spins
# takes the core that the other needs. Libraries read it when they are imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import click

from featstore import __version__
from featstore.cli import analyse, extract, geometry, learning, probe, retrieve, stores, study
from featstore.cli.common import SWITCHES, Group

# As a newcomer reads them: get features, ask of them, look at what came out, keep it.
FAMILIES = {
    "Get features": (probe.quickstart, extract.extract, extract.import_, extract.taps),
    "Ask what a task needs": (
        probe.probe,
        learning.learn,
        analyse.compare,
        retrieve.retrieve,
        analyse.attribute,
        study.study,
    ),
    "Ask what a layer is like": (
        analyse.cka,
        analyse.spectrum,
        geometry.geometry,
        geometry.universality,
    ),
    "Look at results": (analyse.redundancy, analyse.classes, probe.predict, study.report),
    "Keep stores": (
        stores.ls,
        stores.info,
        stores.verify,
        stores.convert,
        stores.merge,
        stores.export,
        stores.push,
        stores.pull,
        stores.rm,
        stores.gc,
    ),
    "Measure this machine": (study.bench,),
}


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
for family, commands in FAMILIES.items():
    for command in commands:
        main.add_to(family, command)


if __name__ == "__main__":
    main(prog_name="featstore")
