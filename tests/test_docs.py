"""The pages of README.md and docs/: links lead somewhere, lines are short, and an index finds each page."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from documented import FENCE, PAGES, ROOT

from vae_lab.__main__ import COMMANDS
from vae_lab.system.config_dir import CONF

LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_of_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in LINK.findall(FENCE.sub("", text)):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert "://" in link or target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link
    named = re.findall(r"`((?:vae_lab|tests|conf|docs|benchmarks)/[\w./]+)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_line_but_those_of_tables_is_long(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_the_index_has_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} == set(
        re.findall(r"\]\((\w+\.md)\)", index)
    )


def test_the_readme_is_short_and_begins_with_the_commands() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert all(f"vae_lab.{name}" in "\n".join(lines[:60]) for name in COMMANDS)


def test_the_page_of_commands_has_a_heading_for_each() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "commands.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in headings if name in COMMANDS] == list(COMMANDS)


def flat(config: object, prefix: str) -> Iterator[str]:
    """The dotted keys of a yaml."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield f"{prefix}{key}"
            yield from flat(value, f"{prefix}{key}.")


def settings() -> set[str]:
    """The dotted keys of all files of conf/."""
    found: set[str] = set()
    for path in sorted(CONF.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        group = path.parent.relative_to(CONF).parts
        prefix = "" if "@package _global_" in text else "".join(f"{part}." for part in group)
        found |= {*flat(yaml.safe_load(text), prefix)}
    return found


ADDED = ("callbacks.x", "callbacks.mine", "logger.mine", "logger.wandb", "logger.mlflow", "logger.tensorboard")
"""Where a reader adds keys of other packages with a +."""
ATTRIBUTES = {"trainer.predict", "trainer.loggers", "model.safetensors"}
"""Of Lightning's Trainer, in Python; and a file."""


def test_settings_that_the_pages_name_exist() -> None:
    known = settings()
    groups = "data|model|likelihood|prior|objective|optimizer|schedule|trainer|callbacks|task|search|score|logger"
    pattern = re.compile(rf"(?<=[`\s'+~])((?:{groups})\.[a-z_]\w*(?:\.\w+)*)(?=[=`\s])")
    for page in PAGES:
        named = set(pattern.findall(page.read_text(encoding="utf-8")))
        wrong = {name for name in named - known - ATTRIBUTES if not name.startswith(ADDED)}
        assert not wrong, f"{page.name}: {sorted(wrong)}"
