"""Everything worth asking a GPU, in two calls of under ten minutes each.

python -m benchmarks.on_device --call 1 --out answers
python -m benchmarks.on_device --call 2 --out answers
python -m benchmarks.on_device --call 1 --rehearse --out rehearsed    # on a CPU, small

Each question is a process of its own with a limit, so that one that hangs or dies costs its own
time alone, and writes what it says, and its JSON, into the folder as soon as it ends.
`answers-1.json` there, or `answers-2.json`, says of every question how it ended.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

SWEEP = "rows=50000,features=2048,classes=100,fractions=20,seeds=5,test_rows=10000,repeats=2"


@dataclass(frozen=True)
class Question:
    """One thing to ask.

    Attributes:
        name: what it is called, in the folder too.
        command: arguments of `python -m`; "JSON" stands for the file to write.
        rehearsed: the same, small and on the CPU.
        limit: seconds.
    """

    name: str
    command: tuple[str, ...]
    rehearsed: tuple[str, ...]
    limit: int


def _bench(stage: str, sizes: str, limit: int, *more: str, name: str = "") -> Question:
    module = f"benchmarks.bench_{stage}"
    return Question(
        name or stage,
        (module, "--sizes", sizes, "--json", "JSON", *more),
        (module, "--sizes", "small", "--json", "JSON", *more),
        limit,
    )


def _tests(name: str, limit: int, *chosen: str) -> Question:
    command = ("pytest", "-q", "-p", "no:cacheprovider", "-n", "0", *chosen)
    return Question(name, command, (*command, "--collect-only"), limit)


AGREE = "tests/gpu"
CALLS = {
    1: (
        _tests("agree", 120, AGREE),
        Question(
            "steps",
            ("benchmarks.device_steps", "--sizes", "full", "--json", "JSON"),
            ("benchmarks.device_steps", "--sizes", "small", "--json", "JSON"),
            60,
        ),
        _bench("kernels", "full", 60, "--device", "auto"),
        _bench("ridge", SWEEP, 90, "--device", "auto", "--against", ""),
        _bench(
            "ridge",
            SWEEP,
            60,
            "--device",
            "auto",
            "--against",
            "",
            "--backend",
            "torch",
            "--memory",
            "2GiB",
            name="ridge in little memory",
        ),
        _bench("logistic", "full", 200, "--device", "auto", "--against", ""),
    ),
    2: (
        _bench("sgd", "full", 120, "--device", "auto", "--against", ""),
        _bench("modes", "full", 120, "--device", "auto"),
        _bench("extract", "full", 240),
        _tests("cuda tests", 90, "tests/probe", "-k", "cuda or cupy or device"),
    ),
}


def asked(question: Question, out: Path, rehearse: bool) -> dict[str, object]:
    """Ask one question, and return how it ended: seconds, and the exit status or "limit"."""
    path = out / question.name.replace(" ", "-")
    parts = question.rehearsed if rehearse else question.command
    command = [str(path.with_suffix(".json")) if part == "JSON" else part for part in parts]
    began = time.monotonic()
    with path.with_suffix(".txt").open("w") as told:
        try:
            done = subprocess.run(
                [sys.executable, "-m", *command],
                stdout=told,
                stderr=subprocess.STDOUT,
                timeout=question.limit,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            done = "limit"
    return {"question": question.name, "ended": done, "seconds": round(time.monotonic() - began, 1)}


def machine() -> dict[str, object]:
    """Return what torch says of the device, and which packages are there."""
    import importlib.util

    import torch

    there = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if there else "none",
        "torch": torch.__version__,
        "cupy": importlib.util.find_spec("cupy") is not None,
    }


def main() -> int:
    """Ask the questions of a call, and say how each ended."""
    parser = argparse.ArgumentParser(description="Ask a GPU everything that is open.")
    parser.add_argument("--call", type=int, choices=CALLS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", help="names of questions, with commas between them")
    parser.add_argument("--rehearse", action="store_true", help="small, and on a CPU")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, object] = {"machine": machine(), "rehearsed": given.rehearse, "answers": []}
    wanted = given.only.split(",") if given.only else None
    for question in CALLS[given.call]:
        if wanted is None or question.name in wanted:
            answer = asked(question, given.out, given.rehearse)
            found["answers"].append(answer)
            print(json.dumps(answer), flush=True)
            path = given.out / f"answers-{given.call}.json"
            path.write_text(json.dumps(found, indent=2) + "\n")
    return int(any(answer["ended"] != 0 for answer in found["answers"]))


if __name__ == "__main__":
    sys.exit(main())
