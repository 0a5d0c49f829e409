"""`python -m featstore`: the command line, in the form that `torchrun -m featstore` takes.

The one module of the library that knows of it.
"""

from featstore.cli import main

if __name__ == "__main__":
    main(prog_name="featstore")
