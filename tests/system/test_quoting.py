"""Overrides and command lines that are printed can be typed, and those that are typed are understood."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from vae_lab.cli.entry import quote_arguments
from vae_lab.system.quoting import command_line, quote_override, quote_typed

ODD = [
    "/plain/path-1.0_x",
    "/x/Meine Läufe (1), a=b $x 'q'",
    "/a/Größe",
    "/x/lr=1e-3,b=2_a_",
    'do"uble',
    "it's",
    "back\\slash",
    "end\\",
    'a\\"b',
    "[a,b]",
    "{a: 1}",
    "choice(a)",
    "",
    " lead",
    "trail ",
    "null",
    "true",
    "1e3",
    "~/x",
    "#x",
    "a;b & c|d",
    "!x",
    "new\nline",
    "水",
    "50%",
    "*.png",
]


@pytest.mark.parametrize("text", ODD)
def test_a_quoted_override_means_its_text_to_shell_and_hydra(text: str) -> None:
    line = command_line("report", [quote_override("runs", text), quote_override("out", text)])
    *python, first, second = shlex.split(line)
    assert python == ["python", "-m", "vae_lab.report"]
    for word, key in ((first, "runs"), (second, "out")):
        parsed = OverridesParser.create().parse_override(word)
        assert (parsed.key_or_group, parsed.value()) == (key, text)
        assert not parsed.is_sweep_override()


def test_a_plain_value_stays_plain() -> None:
    assert command_line("report", [quote_override("runs", "/a/b")]) == "python -m vae_lab.report runs=/a/b"


def test_another_setting_is_not_meant() -> None:
    from omegaconf import OmegaConf

    text = quote_override("runs", "/a/${out}")
    value = OverridesParser.create().parse_override(text).value()
    assert OmegaConf.create({"runs": value, "out": "b"}).runs == "/a/${out}"


TYPED = {  # what is typed: what Hydra gets in a run, and in a sweep
    "data.root=/a/Größe": ('data.root="/a/Größe"', 'data.root="/a/Größe"'),
    "data.root=/a (1)": ('data.root="/a (1)"', 'data.root="/a (1)"'),
    "run=~/x": ('run="~/x"', 'run="~/x"'),
    "folder=r/lr=1,b=2": ('folder="r/lr=1,b=2"', "folder=r/lr=1,b=2"),
    "runs=[ä,ö]": ("runs=[ä,ö]", "runs=[ä,ö]"),
    "data.root=choice(ä,ö)": ("data.root=choice(ä,ö)", "data.root=choice(ä,ö)"),
    "data.root=ä,ö": ('data.root="ä,ö"', "data.root=ä,ö"),
    'data.root="unfinished': ('data.root="unfinished', 'data.root="unfinished'),
    'data.root="/a (1)"': ('data.root="/a (1)"', 'data.root="/a (1)"'),
    "seed=0,1": ("seed=0,1", "seed=0,1"),
    "+callbacks.x.y=ä": ('+callbacks.x.y="ä"', '+callbacks.x.y="ä"'),
    "~logger": ("~logger", "~logger"),
    "--config-dir=/a/Größe": ("--config-dir=/a/Größe", "--config-dir=/a/Größe"),
    "out=${run}/x": ("out=${run}/x", "out=${run}/x"),
    "data.root=/${oc.env:USER}/ä": ('data.root="/${oc.env:USER}/ä"', 'data.root="/${oc.env:USER}/ä"'),
}


@pytest.mark.parametrize("text", TYPED)
def test_a_path_is_taken_as_it_is_typed(text: str) -> None:
    alone, swept = TYPED[text]
    assert quote_typed(text) == alone
    assert quote_arguments([text]) == [alone]
    assert quote_arguments(["-m", text])[1] == swept
    assert quote_arguments([text, "sweep=latents_by_lr"])[0] == swept
    assert quote_typed(alone) == alone
