"""Commands one after another in this process, so that a test of its surroundings pays for the imports once.

`python surrounded.py <output> <commands>`: each command is a list in JSON of its name and its arguments. After it, a
line `=== <name> <exit code>` tells how it ended. `["printed", "report"]` runs the last command line of a report that
stands in the output, and `["stored", "<pattern>"]` the one that a summary holds.
"""

import importlib
import json
import logging
import os
import shlex
import sys
from pathlib import Path

from vae_lab.cli.entry import run


def main(output: Path, commands: list[list[str]]) -> None:
    for name, *arguments in commands:
        words = [os.fsdecode(argument.encode()) for argument in arguments]  # as the system hands them on
        if name == "printed":
            lines = output.read_text(encoding="utf-8").splitlines()
            words = shlex.split([line for line in lines if f"python -m vae_lab.{words[0]}" in line][-1])
        elif name == "stored":
            (summary,) = Path().glob(words[0])
            words = shlex.split(json.loads(summary.read_text(encoding="utf-8"))["command"])
        command = name
        if name in {"printed", "stored"}:
            words = words[words.index("python") + 2 :]
            command = words.pop(0).removeprefix("vae_lab.")
        sys.argv = [command, *words]
        os.environ["HYDRA_FULL_ERROR"] = "0"  # which a command sets
        task = importlib.import_module(f"vae_lab.{command}").main.__wrapped__
        code = run(task, command)
        logging.shutdown()
        sys.stdout.flush()
        os.write(1, f"=== {name} {code}\n".encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
