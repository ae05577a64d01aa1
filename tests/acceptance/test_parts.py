"""A model that answers in parts, as an operator has it: lines as they come, cut off, and on record as such."""

import json
import signal
import subprocess
import time

from tests.support.installation import MER, Installation

HANDLER = """
import time


def load():
    def handle(inputs):
        for number in range(inputs["to"]):
            yield {"number": number}
            time.sleep(0.01)

    return handle
"""


def register(installed: Installation) -> None:
    folder = installed.folder / "counts"
    folder.mkdir(exist_ok=True)
    (folder / "counts.py").write_text(HANDLER)
    installed.mer("-a", "model", "register", "counts", str(folder), "--entry", "counts:load")


def test_lines_come_one_by_one_and_end_on_record(installed: Installation) -> None:
    register(installed)
    installed.mer("run", "counts", "-i", "to=3", "--jsonl")
    record = installed.records()[-1]
    assert (record["outcome"], record["parts"], record["outputs"][0]["parts"]) == ("succeeded", 3, 3)

    program = subprocess.Popen(
        [MER, "run", "counts", "-i", "to=100000", "--jsonl"],
        env=installed.variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert json.loads(program.stdout.readline())["outputs"]["number"]["value"] == 0
    program.send_signal(signal.SIGINT)
    program.communicate(timeout=60)
    assert program.returncode == 130
    assert installed.records()[-1]["outcome"] == "cancelled"

    began = time.monotonic()
    piped = f"set -o pipefail; '{MER}' run counts -i to=100000 --jsonl | head -1"
    done = subprocess.run(
        ["bash", "-c", piped], env=installed.variables, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < 60
    record = installed.records()[-1]
    assert record["outcome"] == "cancelled"
    assert 0 < record["parts"] < 100000
    installed.mer("log", "verify")
