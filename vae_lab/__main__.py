"""`python -m vae_lab`: list the commands."""

import ast
import sys
from pathlib import Path

COMMANDS = (
    "train", "tune", "generate", "encode", "reconstruct", "interpolate", "traverse", "evaluate", "detect", "report",
    "profile", "runs", "export", "explore",
)  # fmt: skip


def summary(command: str) -> str:
    """Return the one-line description of a command from its module's docstring, without importing the module."""
    place = Path(__file__).parent
    path = place / f"{command}.py" if (place / f"{command}.py").exists() else place / command / "__main__.py"
    first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]
    return first.rpartition("`: ")[2].rstrip(".")


def main() -> int:
    """Print the list of commands and return 0; for any argument other than --help, return 2."""
    lines = [f"  python -m vae_lab.{name:11s} {summary(name)}" for name in COMMANDS]
    text = "\n".join(["Commands of vae_lab (add --help to a command for its settings):", *lines, ""])
    known = sys.argv[1:] in ([], ["--help"], ["-h"])
    (sys.stdout if known else sys.stderr).write(text)
    return 0 if known else 2


if __name__ == "__main__":
    sys.exit(main())
