"""The commands of README.md, docs/ and examples/, as a reader would type them."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from vae_lab.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`]+)`")
PROGRAM = re.compile(
    r"(\w+=\S* )*(eval \S+ )?(\$ )?((torchrun|srun) .*)?(python3? )?(-m vae_lab\.|-m benchmarks\.|docs/scripts/|make )"
    rf"|({'|'.join(COMMANDS)}) \S*="
)


class Documented(NamedTuple):
    """A command and the page that it stands on."""

    page: str
    line: str

    @property
    def words(self) -> list[str]:
        """What a shell hands on.

        Without variables, comments, an ellipsis and the brackets around what may be left out; placeholders have no
        blanks.
        """
        line = re.sub(r"<[^>]*>", lambda found: re.sub(r"[ ']", "_", found[0]), self.line.removeprefix("$ "))
        line = re.sub(r"(?<= )\[([\w.]+=\S*?)\](?= |$)", r"\1", line)
        words = [word for word in shlex.split(re.sub(r"[<>]", r"\\\g<0>", line), comments=True) if word != "…"]
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        return ["python", "-m", f"vae_lab.{words[0]}", *words[1:]] if words[0] in COMMANDS else words

    @property
    def module(self) -> str:
        """The module that it runs, or an empty text."""
        words = self.words
        return words[words.index("-m") + 1] if "-m" in words and words[0] != "make" else ""

    @property
    def arguments(self) -> list[str]:
        """What stands behind the module."""
        return self.words[self.words.index("-m") + 2 :]


def commands_of(page: Path) -> list[Documented]:
    """The commands of fenced blocks and of inline code."""
    text = page.read_text(encoding="utf-8")
    blocks = [block.replace("\\\n", " ") for language, block in FENCE.findall(text) if language != "python"]
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    lines += [" ".join(code.split()) for code in CODE.findall(FENCE.sub("", text))]
    name = str(page.relative_to(ROOT))
    return [Documented(name, line) for line in lines if PROGRAM.match(line)]


def python_blocks() -> list[tuple[str, str]]:
    """Each block of Python, behind its page."""
    return [
        (str(page.relative_to(ROOT)), block)
        for page in PAGES
        for language, block in FENCE.findall(page.read_text(encoding="utf-8"))
        if language == "python"
    ]


DOCUMENTED = [command for page in PAGES for command in commands_of(page)]
