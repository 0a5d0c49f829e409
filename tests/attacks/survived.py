"""Write what attacks survived into docs/reliability.md, from the log that they made.

python tests/attacks/survived.py survived.jsonl adds up the lines of each row and writes it; rows
of attacks that are not in the log stay.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"

# What each row counts, and the names of its attacks.
ROWS = {
    "SIGKILLs of `extract`: Zarr, HDF5, zstd, taps, views, processes, 2 ranks":
        r"kill: extract(?!.* over)",
    "SIGKILLs of `import`, `convert`, `merge`, `export`":
        r"kill: (import|convert|merge|export)(?!.* over)",
    "SIGKILLs of the same with `--overwrite`": r"kill: \w+.* over(,| |$)",
    "SIGKILLs of `rm` and `gc`": r"kill: rm",
    "SIGKILLs of repairs of an HDF5 file": r"kill: repair",
    "flipped bits of a Zarr store's files, plain and zstd": r"flip: zarr",
    "other damages of a Zarr store's files: cuts, zeros, absence": r"(cut|zeros|gone): zarr",
    "damages of an HDF5 file: flips, cuts, zeros": r"\w+: hdf5",
    "swaps of a store's files": r"swap: ",
    "commands without room: limits on files, a disk of 400 kB": r"(no room|full disk): ",
    "writers at one place, four at a time": r"writers: ",
    "bad entries of a root": r"bad entries",
    "hostile folders of Hugging Face's models": r"hostile Hugging",
    "hostile ONNX graphs": r"hostile ONNX",
    "headers that lie": r"headers of others",
    "damaged arrays that `import` takes: .npy, .npz, .safetensors, .pt, Parquet, Arrow, HDF5":
        r"damaged arrays",
    "damages of a cache of moments": r"damage of m\.npz",
    "damages of results, accuracies by class, predictions, saved probes and rows, with a digest":
        r"damage of (?!m\.npz).*, digest",
    "damages of tables of results, their digests deleted": r"damage of .*, no digest",
    "SIGKILLs of `probe --out`, run again to the same bytes": r"kill: answer, probe|kills of probe",
    "SIGKILLs of `compare`, `learn`, `attribute`, `report`, `study` and what else answers":
        r"kill: answer, ",
    "command lines of random words, of 27 commands": r"command lines",
    "SIGKILLs of `push`, at a request": r"kill: push",
    "SIGKILLs of `pull`, at a request": r"kill: pull",
    "answers to `push` and `pull` that no hub gives": r"hostile answers",
    "on S3: SIGKILLs of `import` and `extract`, at a request": r"S3 kill: (?!.* over)",
    "on S3: SIGKILLs of the same with `--overwrite`, at a request": r"S3 kill: .* over",
    "on S3: writers stopped and woken": r"stop and wake",
    "on S3: stores written while requests and answers are lost": r"lost requests",
}  # fmt: skip


def rows_of(log: str) -> dict[str, str]:
    """Return the table's rows by what they count, of a log all of whose attacks were survived.

    >>> made = {"attack": "kill: rm zarr", "attempts": 2, "survived": True}
    >>> rows = rows_of("\\n".join([json.dumps({**made, "outcomes": {"at work": 2}})] * 2))
    >>> list(rows.values())
    ['| SIGKILLs of `rm` and `gc` | 4 | 4 at work |']
    """
    attempts, outcomes = Counter(), {}
    for line in map(json.loads, log.splitlines()):
        if not line["survived"]:
            raise SystemExit(f"{line['attack']} was not survived: mend what it found first")
        row = next(row for row, pattern in ROWS.items() if re.match(pattern, line["attack"]))
        attempts[row] += line["attempts"]
        outcomes.setdefault(row, Counter()).update(line["outcomes"])
    return {
        row: f"| {row} | {attempts[row]:,} | "
        + "; ".join(f"{count:,} {outcome}" for outcome, count in told.most_common())
        + " |"
        for row, told in outcomes.items()
    }


def written(page: str, rows: dict[str, str]) -> str:
    """Return the page with these rows in its last table, in the order of `ROWS`.

    >>> old = "|---|---:|---|\\n| headers that lie | 1 | 1 refused |\\n"
    >>> print(written(old, {"swaps of a store's files": "| swaps of a store's files | 7 | |"}))
    |---|---:|---|
    | swaps of a store's files | 7 | |
    | headers that lie | 1 | 1 refused |
    <BLANKLINE>
    """
    head, rule, table = page.rpartition("|---|---:|---|\n")
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in table.splitlines()}
    lines |= rows
    order = [*(row for row in ROWS if row in lines), *(row for row in lines if row not in ROWS)]
    return head + rule + "\n".join(lines[row] for row in order) + "\n"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(), rows_of(Path(sys.argv[1]).read_text())))
