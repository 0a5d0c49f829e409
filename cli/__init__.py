"""The command line: every command parses, calls a public function of the library, prints.

Tables go to stdout, progress and notices to stderr. The libraries are imported inside the
commands, so that `featstore --help` answers at once.
"""

from cli.commands import main

__all__ = ["main"]
