"""`python -m cli` is `featstore`."""

from cli.commands import main

main(prog_name="featstore")
