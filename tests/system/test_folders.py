"""Where caches lie, and what is done where the home is missing or cannot be written."""

import os
import re
import tempfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from vae_lab.errors import StorageError
from vae_lab.runs.load import load_data
from vae_lab.system import folders
from vae_lab.training.run import train_run

PACKAGE = Path(folders.__file__).parents[1]
VARIABLES = (
    *folders.LIBRARY_FOLDERS,
    "VAE_LAB_CACHE",
    "TORCH_HOME",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
)


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without anything in it, and a place for temporary files."""
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


def blocked(folder: Path) -> Path:
    """A folder below which nothing can be made, also by root: a file is in the way."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.touch()
    return folder


CACHES = {
    "home": ({}, "home/.cache/vae_lab"),
    "VAE_LAB_CACHE": ({"VAE_LAB_CACHE": "{here}/mine", "XDG_CACHE_HOME": "{here}/xdg"}, "mine"),
    "below the home": ({"VAE_LAB_CACHE": "~/mine"}, "home/mine"),
    "XDG": ({"XDG_CACHE_HOME": "{here}/xdg"}, "xdg/vae_lab"),
    "relative XDG is to be ignored": ({"XDG_CACHE_HOME": "xdg"}, "home/.cache/vae_lab"),
    "no home": ({"HOME": "/nowhere/at/all"}, f"tmp/vae_lab-{os.getuid()}/vae_lab"),
    "XDG that cannot be written": ({"XDG_CACHE_HOME": "{here}/blocked"}, f"tmp/vae_lab-{os.getuid()}/vae_lab"),
}


@pytest.mark.parametrize("case", CACHES)
def test_caches_lie_in_one_place(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked(tmp_path / "blocked")
    environment, expected = CACHES[case]
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(here=tmp_path))
    assert folders.cache_folder() == tmp_path / expected
    assert not (tmp_path / "home" / ".cache").exists(), "to ask makes nothing"


def test_no_other_file_looks_for_a_cache() -> None:
    texts = {path.relative_to(PACKAGE): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    asking = {str(name) for name, text in texts.items() if re.search(r"XDG_|TORCH_HOME|VAE_LAB_CACHE|\.home\(\)", text)}
    assert asking == {"system/folders.py"}
    assert not [name for name, text in texts.items() if re.search(r"\.expanduser\(\)", text)], "use expanded()"


def test_a_home_that_will_do_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    assert folders.provide_home() is None
    assert os.environ == before


def test_a_missing_home_is_replaced_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = "/nowhere/at/all"
    monkeypatch.setenv("HOME", home)
    line = folders.provide_home()
    private = tmp_path / "tmp" / f"vae_lab-{os.getuid()}"
    assert line == f"HOME={home} does not exist: caches are kept in {private}; set HOME to keep them elsewhere."
    assert Path(os.environ["HOME"]) == private
    assert private.stat().st_mode & 0o777 == 0o700


def test_a_home_that_cannot_be_written_keeps_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    for name in (".cache", ".local"):
        blocked(home / name)
    (home / ".config" / "wandb").mkdir(parents=True)
    for name in folders.LIBRARY_FOLDERS:  # set by what is tested: to be taken back
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    line = folders.provide_home()
    assert line is not None
    assert line.startswith(f"the cache folders of {home} cannot be written")
    assert Path(os.environ["HOME"]) == home, "there may be a .netrc with W&B's key"
    set_now = {name for name in folders.LIBRARY_FOLDERS if name in os.environ}
    assert set_now == {"MPLCONFIGDIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"}


@pytest.mark.parametrize("trap", ["a link", "open to all", "a file"])
def test_a_temporary_folder_of_somebody_else_is_not_used(trap: str, tmp_path: Path) -> None:
    path = tmp_path / "tmp" / f"vae_lab-{os.getuid()}"
    if trap == "a link":
        path.symlink_to(tmp_path / "home")
    elif trap == "a file":
        path.touch()
    else:
        path.mkdir()
        path.chmod(0o777)
    found = folders.temporary_home()
    assert found != path
    assert found.stat().st_mode & 0o777 == 0o700


def test_a_path_below_no_home_is_an_error_and_a_stranger_is_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert folders.expanded("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user id without a name and without HOME
    with pytest.raises(ValueError, match=r"~/x: this user has no home folder; write the path out, or set HOME\."):
        folders.expanded("~/x")


def test_whether_a_folder_can_be_written_is_found_out_without_a_trace(tmp_path: Path) -> None:
    folders.require_writable(tmp_path / "home" / "new" / "folder")
    assert not list((tmp_path / "home").iterdir())
    file = blocked(tmp_path / "file")
    with pytest.raises(StorageError, match=rf"^{file}/new cannot be written \(Not a directory\); .*out=\.$"):
        folders.require_writable(file / "new")


def test_what_is_computed_of_a_run_is_kept_in_it_or_in_the_cache(tmp_path: Path) -> None:
    run, name = tmp_path / "run", "calibration/x.pt"
    inside, outside = run / name, tmp_path / "home" / ".cache" / "vae_lab" / "runs" / "1234" / name
    run.mkdir()
    assert folders.kept_path(run, name, "1234") == inside
    blocked(run / "calibration")
    assert folders.kept_path(run, name, "1234") == outside
    assert folders.place_to_keep(run, name, "1234") == outside
    outside.parent.mkdir(parents=True)
    outside.touch()
    (run / "calibration").unlink()
    assert folders.kept_path(run, name, "1234") == outside, "what is there is used"
    assert folders.place_to_keep(run, name, "1234") == inside
    assert folders.kept_path(run, name, "5678") == inside, "of other weights"
    inside.parent.mkdir()
    inside.touch()
    assert folders.kept_path(run, name, "1234") == inside


def test_the_cache_that_is_named_now_counts_for_an_old_run(config, tmp_path: Path, monkeypatch) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i, grey in enumerate(torch.linspace(0, 255, 12).int().tolist()):
        Image.new("L", (8, 8), grey).save(pictures / f"{i}.png")
    small = ("data.channels=1", "data.image_size=8", "data.batch_size=2", "model=mlp", "data.memory_limit=0")
    monkeypatch.setenv("VAE_LAB_CACHE", str(tmp_path / "then"))
    cfg = config("data=folder", f"data.root={pictures}", *small)
    train_run(cfg)
    assert len(list((tmp_path / "then").iterdir())) == 1
    assert cfg.data.cache is None
    monkeypatch.setenv("VAE_LAB_CACHE", str(tmp_path / "now"))
    load_data(cfg.folder)
    assert len(list((tmp_path / "now").iterdir())) == 1
    assert not (tmp_path / "home" / ".cache").exists()
