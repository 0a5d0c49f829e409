"""`python cli.py` from a checkout is the command `featstore`."""

from featstore.cli import main

if __name__ == "__main__":
    main(prog_name="featstore")
