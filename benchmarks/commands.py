"""Whole commands against the least that Python itself takes for them: `mer --help`, and a one-shot `mer run digits`.

    python benchmarks/commands.py [--rounds 15] [--quick]

Runs our command and its yardstick in turn, first both on one CPU, then both on two, and prints the medians and the median of
the ratios round by round. The one-shot needs a state folder of its own: one is made, the demo registered, and removed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
MER = [str(Path(sys.executable).parent / "mer")]
DIGITS = ROOT / "examples" / "digits"


def seconds(commands: Sequence[Sequence[str]], environment: Mapping[str, str]) -> float:
    """Wall time of the commands, one after the other."""
    start = time.perf_counter()
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    return time.perf_counter() - start


def compare(
    ours: Sequence[Sequence[str]], bare: Sequence[Sequence[str]], environment: Mapping[str, str], rounds: int
) -> dict[str, float]:
    """Medians in milliseconds, and the median of the ratios of each round."""
    for commands in (ours, bare):
        seconds(commands, environment)
    pairs = [(seconds(ours, environment), seconds(bare, environment)) for _ in range(rounds)]
    return {
        "ours_ms": statistics.median(a for a, _ in pairs) * 1e3,
        "bare_ms": statistics.median(b for _, b in pairs) * 1e3,
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def measure_pinned(rounds: int) -> dict[str, dict[str, float]]:
    """Figures by command and CPUs; children inherit what this process is pinned to."""
    before = os.sched_getaffinity(0)
    first, *rest = sorted(before)
    figures = {}
    try:
        for name, cpus in ({"one CPU": {first}} | ({"two CPUs": {first, rest[0]}} if rest else {})).items():
            os.sched_setaffinity(0, cpus)
            figures |= {f"{command}, {name}": found for command, found in measure(rounds).items()}
    finally:
        os.sched_setaffinity(0, before)
    return figures


def measure(rounds: int) -> dict[str, dict[str, float]]:
    python = sys.executable
    parent = "/var/lib" if os.geteuid() == 0 else None  # root's database needs folders that its own user can pass
    with tempfile.TemporaryDirectory(prefix="mer-bench-", dir=parent) as folder:
        Path(folder).chmod(0o711)
        environment = {**os.environ, "MER_STATE_FOLDER": f"{folder}/state"}
        environment.pop("DB_CONNECTION_URL", None)
        subprocess.run([str(DIGITS / "register.sh"), *MER], check=True, env=environment, stdout=subprocess.DEVNULL)
        try:
            return {
                "mer --help": compare([[*MER, "--help"]], [[python, "-c", "pass"]], environment, rounds),
                "mer run digits": compare(
                    [[*MER, "run", "digits", "--input", f"image=@{DIGITS / 'three.npy'}"]],
                    [[python, "-c", "import psycopg, numpy, click, msgspec"], [python, "-c", "import numpy"]],
                    environment,
                    rounds,
                ),
            }
        finally:
            subprocess.run([*MER, "db", "stop"], env=environment, check=False, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="one round each: to see that it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 1
    for name, figures in measure_pinned(arguments.rounds).items():
        print(name, json.dumps({key: round(value, 2) for key, value in figures.items()}))
