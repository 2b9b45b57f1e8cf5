"""Folders as users have them; the numbers are those of faults.md, sections F and G."""

import errno
import logging
import os
import re
import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vae_lab.data.files.listing import list_files, printable
from vae_lab.data.folder import Folder
from vae_lab.errors import DataError, StorageError

MONET = Path(__file__).parents[3] / "shared/data/monet"
SETTINGS = {
    "channels": 3,
    "image_size": 8,
    "batch_size": 2,
    "eval_batch_size": 8,
    "seed": 0,
    "split_seed": 0,
    "val_fraction": 0.1,
    "test_fraction": 0.1,
    "on_bad": "skip",
    "max_pixels": 10**6,
    "background": 255,
    "memory_limit": 2**30,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    return tmp_path / "pictures"


@pytest.fixture(autouse=True)
def all_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def folder(root: Path | str | None, **settings: object) -> Folder:
    cache = str(Path(root).parent / "cache") if root else "cache"
    return Folder(**{**SETTINGS, "root": root and str(root), "cache": cache, **settings})


def draw(seed: int, size: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def fill(root: Path, n: int, first: int = 0) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + n):
        draw(i).save(root / f"{i:04}.png")


def sizes(data: Folder) -> list[int]:
    return [len(part) for part in data.splits]


def everything(data: Folder) -> torch.Tensor:
    """All images of the three parts, in an order that depends on the pixels alone."""
    rows = torch.cat([part.pixels(slice(None)).flatten(1) for part in data.splits])
    return torch.from_numpy(np.unique(rows.numpy(), axis=0))


def test_every_image_is_in_one_part(root):
    fill(root / "a", 20)
    fill(root / "b/c", 20, first=20)
    data = folder(root)
    assert sizes(data) == [32, 4, 4]
    expected = np.stack([np.array(draw(i)).transpose(2, 0, 1).flatten() for i in range(40)])
    assert np.array_equal(everything(data), np.unique(expected, axis=0))
    batch = next(iter(data.val_dataloader()))
    assert batch.image.shape == (4, 3, 8, 8)
    assert batch.label.tolist() == [0] * 4


def test_parts_share_the_pixels(root):
    fill(root, 10)
    parts = folder(root).splits
    assert len({part._pixels.data_ptr() for part in parts}) == 1
    rows = torch.tensor([2, 0])
    assert torch.equal(parts.val.subset(rows[1:]).pixels(slice(None)), parts.val.pixels([0]))
    assert torch.equal(parts.train.subset(rows).pixels(slice(None)), parts.train.pixels(rows))
    assert parts.train.subset(rows).digest() != parts.train.subset(rows.flip(0)).digest()


def bad_files(root: Path) -> dict[str, str]:
    """Write files that are no images; return why each is none."""
    draw(1, 64).save(root / "good.jpg")
    draw(1, 64).save(root / "good.png")
    jpeg, png = (root / "good.jpg").read_bytes(), (root / "good.png").read_bytes()
    Image.new("1", (1001, 1000)).save(root / "large.png")
    Image.fromarray(np.full((8, 8), 2.5, dtype=np.float32)).save(root / "float.tif")
    draw(1).save(root / "picture.avif")
    contents = {
        "empty.png": (b"", "empty file"),
        "page.jpg": (b"<html>Not found</html>", "not an image"),
        "random.jpg": (bytes(range(256)), "not an image"),
        "notes.txt": (b"to do: name the files", "not an image"),
        "catalogue.db": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "not an image"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "cut.png": (png[: len(png) // 2], "truncated"),
        "large.png": ((root / "large.png").read_bytes(), "1001x1000 are 1,001,000 pixels"),
        "float.tif": ((root / "float.tif").read_bytes(), "unknown"),
        "picture.avif": ((root / "picture.avif").read_bytes(), "not an image"),
    }
    (root / "good.jpg").unlink()
    (root / "good.png").unlink()
    for name, (content, _) in contents.items():
        (root / name).write_bytes(content)
    return {name: reason for name, (_, reason) in contents.items()}


@pytest.mark.parametrize("memory_limit", [2**30, 0], ids=["memory", "mapped"])
def test_bad_files_are_named_with_their_reasons(root, caplog, memory_limit):
    reasons = bad_files(root)
    fill(root / "m", 90)  # between the bad ones
    data = folder(root, memory_limit=memory_limit)
    assert sizes(data) == [72, 9, 9]
    for name, reason in reasons.items():
        assert [f"skipped {name}: " in line and reason in line for line in caplog.messages].count(True) == 1, name
    assert any(line.startswith("decoded 90 of 100 files, skipped 10") for line in caplog.messages)
    expected = np.stack([np.array(draw(i)).transpose(2, 0, 1).flatten() for i in range(90)])
    assert np.array_equal(everything(data), np.unique(expected, axis=0))


@pytest.mark.parametrize("memory_limit", [2**30, 0], ids=["memory", "mapped"])
def test_the_first_bad_file_ends_it_if_asked(root, memory_limit):
    fill(root, 20)
    (root / "0004.png").write_bytes(b"nothing")
    (root / "0011.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"0004\.png is not a usable image \(not an image.*data\.on_bad=skip\.$"):
        folder(root, on_bad="fail", memory_limit=memory_limit).load()
    assert not list((root.parent / "cache").glob("*")) or memory_limit
    assert sizes(folder(root, memory_limit=memory_limit)) == [14, 2, 2]
    with pytest.raises(DataError, match=r"0004\.png"):  # also where the cache knows
        folder(root, on_bad="fail", memory_limit=memory_limit).load()


def test_many_bad_files_are_counted(root, caplog):
    fill(root, 10)
    for i in range(33):
        (root / f"{i}.txt").write_text("words")
    folder(root).load()
    assert sum(line.startswith("skipped ") for line in caplog.messages) == 20
    assert "… and 13 more" in caplog.messages


def test_the_content_decides(root, caplog):
    for name, kind in (("a.JPG", "JPEG"), ("b.jpg", "PNG"), ("c.png", "GIF"), ("d", "TIFF"), ("e.txt", "WEBP")):
        draw(1).save(root / name, kind)
    draw(1).save(root / "f.avif")
    fill(root, 4)
    assert sum(sizes(folder(root))) == 9
    assert any(line.startswith("decoded 9 of 10 files, skipped 1") for line in caplog.messages)


@pytest.mark.parametrize("split_seed", range(10))
def test_exact_duplicates_stay_together(root, caplog, split_seed):
    fill(root, 20)
    for i in range(6):
        shutil.copy(root / f"{i:04}.png", root / f"copy {i}.png")
        draw(i).save(root / f"{i}.bmp")
    data = folder(root, split_seed=split_seed, val_fraction=0.25, test_fraction=0.25)
    parts = data.splits
    held = [{bytes(image.numpy()) for image in part.pixels(slice(None))} for part in parts]
    assert sum(len(part) for part in parts) == 32
    assert sum(len(images) for images in held) == len(set.union(*held)) == 20
    assert data.survey.facts["exact_duplicates"] == 12


def test_links_and_loops_count_once(root):
    fill(root / "a/b", 5)
    (root / "a/b/up").symlink_to(root)
    (root / "again").symlink_to(root / "a")
    (root / "self").symlink_to("self")
    (root / "twin.png").symlink_to(root / "a/b/0001.png")
    assert len(list_files(root).files) == 5
    outside = root.parent / "outside"
    fill(outside, 7, first=10)
    (root / "linked").symlink_to(outside)
    assert sum(sizes(folder(root))) == 12


def test_only_regular_files_are_opened(root):
    fill(root, 5)
    os.mkfifo(root / "pipe.png")
    (root / "dead.png").symlink_to("nowhere.png")
    (root / "device.png").symlink_to("/dev/zero")
    listener = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(root)  # the path of a socket must be short
    listener.bind("socket.png")
    os.chdir(here)
    started = time.process_time()
    assert sum(sizes(folder(root))) == 5
    assert time.process_time() - started < 2
    listener.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_reported(root, caplog):
    fill(root, 5)
    fill(root / "locked", 5, first=5)
    (root / "0000.png").chmod(0)
    (root / "locked").chmod(0)
    assert sum(sizes(folder(root))) == 4
    (root / "locked").chmod(0o700)
    assert {"skipped 0000.png: Permission denied", "skipped locked: Permission denied"} <= set(caplog.messages)


def test_hidden_names_are_passed_over(root):
    fill(root, 5)
    for name in (".hidden.png", "._0001.png", ".DS_Store"):
        draw(50).save(root / name, "PNG")
    fill(root / ".thumbnails", 5, first=20)
    assert [file.path for file in list_files(root).files] == [f"{i:04}.png" for i in range(5)]


NAMES = [b"\xff\xfe.png", b"a\nb.png", "😀.png".encode(), b"x" * 251 + b".png", b"-rf.png", b"a b.png", b"a'b\".png",
         b"a,b.png", b"a=b${c}.png", b"\x1b[31m.png", "é.png".encode(), "e\u0301.png".encode()]  # fmt: skip


def test_every_name_works_and_is_logged_printably(root, caplog):
    for i, name in enumerate(NAMES):
        draw(i).save(root / "picture", "PNG")
        (root / "picture").rename(root / os.fsdecode(name))
    for name in NAMES:
        (root / os.fsdecode(b"bad" + name[-200:])).write_bytes(b"x")
    assert sum(sizes(folder(root, memory_limit=0))) == 12
    listed = [os.fsencode(file.path) for file in list_files(root).files]
    assert [name for name in listed if not name.startswith(b"bad")] == sorted(NAMES)
    for line in caplog.messages:
        assert line.isprintable()
        line.encode("utf-8")
    assert printable(os.fsdecode(b"\xff\n\x1b.png")) == "\\xff\\n\\x1b.png"
    with pytest.raises(DataError, match=r"^bad\\x1b\[31m\.png is no"):
        folder(root, on_bad="fail").load()


class Backwards:
    """A filesystem that lists its entries in another order."""

    def __init__(self, entries):
        self.entries = entries

    def __enter__(self):
        return reversed(list(self.entries))

    def __exit__(self, *_):
        self.entries.close()


def test_the_order_of_the_filesystem_does_not_matter(root, monkeypatch):
    for name in ("b", "B", "a/z", "a-b", "é"):
        fill(root / name, 4, first=sum(name.encode()))
    (root / "c").symlink_to(root / "a")
    before, fingerprint = list_files(root), folder(root).fingerprint
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: Backwards(scandir(path)))
    assert list_files(root) == before
    assert folder(root).fingerprint == fingerprint
    names = [os.fsencode(file.path) for file in before.files]
    assert names == sorted(names)
    assert len(names) == 20


def test_large_folders_are_listed_fast(root):
    for i in range(5_000):
        (root / f"{i}.jpg").touch()
    started = time.process_time()
    assert len(list_files(root).files) == 5_000
    assert time.process_time() - started < 2


def no_such(root):
    return root / "nowhere", "does not exist"


def a_file(root):
    (root / "a.zip").write_bytes(b"PK")
    return root / "a.zip", "is not a folder"


def empty(root):
    return root, "is empty"


def folders_only(root):
    (root / "a/b").mkdir(parents=True)
    return root, "holds 2 folders and no file"


def no_image(root):
    (root / "notes.txt").write_text("words")
    return root, r"holds 1 files and no image \(notes.txt: not an image"


def home(root):
    return "~/pictures/nowhere", "does not exist"


def unknown_home(root):
    return "~nobody_at_all/pictures", "does not exist"


def nul(root):
    return "pic\0tures", "does not exist"


def dead_link(root):
    (root / "link").symlink_to("nowhere")
    return root / "link", "is not a folder"


@pytest.mark.parametrize(
    "case",
    [no_such, a_file, empty, folders_only, no_image, home, unknown_home, nul, dead_link],
    ids=lambda case: case.__name__,
)
@pytest.mark.parametrize("memory_limit", [2**30, 0], ids=["memory", "mapped"])
def test_what_is_no_folder_of_images_is_said_in_one_sentence(root, monkeypatch, case, memory_limit):
    monkeypatch.setenv("HOME", str(root.parent))
    path, finding = case(root)
    with pytest.raises(DataError, match=finding) as raised:
        folder(path, memory_limit=memory_limit, cache=str(root.parent / "cache")).load()
    message = str(raised.value)
    assert message.startswith("/")
    assert message.endswith("name the folder of the images with data.root=.")
    assert "~/" not in message
    assert message.isprintable()


@pytest.mark.parametrize("root", [None, ""])
def test_an_unset_root_is_said(root):
    with pytest.raises(DataError, match=r"data\.root is not set"):
        folder(root).load()


def test_one_class_cannot_be_balanced(root):
    fill(root, 20)
    with pytest.raises(ValueError, match=r"data\.balance=true: the training images are all of one class"):
        _ = folder(root, balance=True).splits


def in_classes(root: Path) -> None:
    """Ten images of each class, with a file that is no image among them and an empty folder beside."""
    for number, name in enumerate(("b", "a/deep", "B", "é")):
        fill(root / name, 10, first=10 * number)
    (root / "a" / "0000.txt").write_text("words")
    (root / "notes.txt").write_text("words")
    (root / "nothing").mkdir()


@pytest.mark.parametrize("memory_limit", [2**30, 0], ids=["memory", "mapped"])
def test_sub_folders_are_classes(root, memory_limit):
    in_classes(root)
    data = folder(root, labels="subfolders", memory_limit=memory_limit)
    parts = data.load()
    assert data.classes == ("B", "a", "b", "é")
    seen = {
        bytes(part.pixels(slice(i, i + 1)).numpy()): int(part.labels[i]) for part in parts for i in range(len(part))
    }
    assert len(seen) == 40
    for label, (name, first) in enumerate((("B", 20), ("a", 10), ("b", 0), ("é", 30))):
        for i in range(first, first + 10):
            pixels = torch.from_numpy(np.asarray(draw(i)).copy()).permute(2, 0, 1)
            assert seen[bytes(pixels.contiguous().numpy())] == label, name
    plain = folder(root)
    assert set(torch.cat([part.labels for part in plain.load()]).tolist()) == {0}
    assert plain.classes == ()
    assert plain.fingerprint != folder(root, labels="subfolders").fingerprint


def test_an_image_without_a_class_is_named(root):
    in_classes(root)
    draw(99).save(root / "stray.png")
    with pytest.raises(DataError, match=r"^stray.png is not in a sub-folder.*data\.labels=null"):
        folder(root, labels="subfolders").load()


def test_home_is_expanded(root, monkeypatch):
    fill(root, 5)
    monkeypatch.setenv("HOME", str(root.parent))
    assert sum(sizes(folder("~/pictures", memory_limit=0, cache="~/kept"))) == 5
    assert len(list((root.parent / "kept").iterdir())) == 1


def tree(root: Path) -> dict[Path, tuple[int, int, bytes]]:
    paths = [root, *root.rglob("*")]
    stats = {path: path.stat() for path in paths}
    return {path: (s.st_mtime_ns, s.st_mode, path.read_bytes() if path.is_file() else b"") for path, s in stats.items()}


def test_the_users_folder_is_never_touched(root):
    fill(root / "sub", 10)
    bad_files(root)
    before = tree(root)
    for path in (root / "sub", root):
        path.chmod(0o500)
    folder(root, memory_limit=0).load()
    folder(root).load()
    for path in (root, root / "sub"):
        path.chmod(0o755)
    assert tree(root) == before


@pytest.fixture
def mapped(root: Path) -> Folder:
    """A folder with 12 good files and 1 bad one, decoded once into the cache."""
    fill(root, 12)
    (root / "notes.txt").write_text("words")
    data = folder(root, memory_limit=12 * 192)
    data.load()
    return data


def entry_of(mapped: Folder) -> Path:
    (entry,) = mapped.cache.iterdir()
    return entry


def test_a_map_equals_the_memory(mapped, root):
    assert mapped.cache.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in entry_of(mapped).iterdir()) == ["index.json", "pixels.u8"]
    assert (entry_of(mapped) / "pixels.u8").stat().st_size == 12 * 192
    assert mapped.fingerprint == folder(root, memory_limit=13 * 192).fingerprint
    assert len(list(mapped.cache.iterdir())) == 1  # 13 files fit: nothing mapped


def test_a_map_is_used_again(mapped, root, caplog):
    fingerprint = mapped.fingerprint
    stat = (root / "0003.png").stat()
    (root / "0003.png").write_bytes(bytes(stat.st_size))
    os.utime(root / "0003.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    caplog.clear()
    assert folder(root, memory_limit=0).fingerprint == fingerprint
    assert caplog.messages[0].startswith("skipped notes.txt: not an image")
    assert caplog.messages[1].startswith("decoded 12 of 13 files, skipped 1")
    os.utime(root / "0003.png")
    assert sum(sizes(folder(root, memory_limit=0))) == 11


@pytest.mark.parametrize(
    "change",
    [{"channels": 1}, {"image_size": 9}, {"max_pixels": 50}, {"background": 7}],
    ids=["channels", "image_size", "max_pixels", "background"],
)
def test_other_settings_are_another_map(mapped, root, change):
    old = entry_of(mapped)
    try:
        folder(root, memory_limit=0, **change).load()
    except DataError:
        assert "max_pixels" in change
    assert len(set(mapped.cache.iterdir()) - {old}) == 1


def cut(entry):
    os.truncate(entry / "pixels.u8", 100)


def grown(entry):
    os.truncate(entry / "pixels.u8", 13 * 192)


def no_index(entry):
    (entry / "index.json").unlink()


def broken_index(entry):
    (entry / "index.json").write_text('{"digests": 3')


def other_index(entry):
    (entry / "index.json").write_text("[]")


@pytest.mark.parametrize(
    "damage", [cut, grown, no_index, broken_index, other_index], ids=lambda damage: damage.__name__
)
def test_a_damaged_map_is_made_anew(mapped, root, caplog, damage):
    fingerprint = mapped.fingerprint
    damage(entry_of(mapped))
    assert folder(root, memory_limit=0).fingerprint == fingerprint
    assert any("is damaged; decoding again" in line for line in caplog.messages)
    assert (entry_of(mapped) / "pixels.u8").stat().st_size == 12 * 192


def test_writing_to_pixels_leaves_the_map_alone(mapped, root):
    fingerprint = mapped.fingerprint
    mapped.splits.train._pixels.zero_()
    assert folder(root, memory_limit=0).fingerprint == fingerprint


def test_a_full_disk_is_a_storage_error(root, monkeypatch):
    fill(root, 5)

    def full(descriptor: int, offset: int, nbytes: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=r"^960 bytes .* \(No space left on device\); .*data\.cache=.*memory_limit"):
        folder(root, memory_limit=0).load()
    assert list((root.parent / "cache").iterdir()) == []


def test_a_cache_that_is_no_folder_is_a_storage_error(root):
    fill(root, 5)
    (root.parent / "cache").write_text("mine")
    with pytest.raises(StorageError, match=r"cache"):
        folder(root, memory_limit=0).load()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_map_of_somebody_else_is_refused(mapped, root):
    os.chown(entry_of(mapped), 12345, 12345)
    with pytest.raises(StorageError, match="belongs to another user"):
        folder(root, memory_limit=0).load()


def test_leftovers_of_killed_runs_are_removed_after_a_day(mapped, root):
    entry = entry_of(mapped)
    old, young = (mapped.cache / f".{entry.name}.{name}.tmp" for name in ("old", "young"))
    for leftover in (old, young):
        (leftover / "folder").mkdir(parents=True)
    os.utime(old, (0, time.time() - 90_000))
    shutil.rmtree(entry)
    folder(root, memory_limit=0).load()
    assert sorted(mapped.cache.iterdir()) == [young, entry]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"val_fraction": 0.0}, "data.val_fraction must lie in (0, 1), not 0.0"),
        ({"val_fraction": 1.5}, "data.val_fraction must"),
        ({"test_fraction": float("nan")}, "data.test_fraction must lie in (0, 1), not nan"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "leave nothing to train on"),
        ({"on_bad": "ignore"}, "data.on_bad must be one of skip, fail, not ignore"),
        ({"max_pixels": 0}, "data.max_pixels must lie in [1, 178956970], not 0"),
        ({"max_pixels": 10**9}, "data.max_pixels must"),
        ({"background": 256}, "data.background must lie in [0, 255], not 256"),
        ({"memory_limit": -1}, "data.memory_limit must be a finite number of at least 0, not -1"),
        ({"cache": ""}, "data.cache is empty; name a folder"),
        ({"download": True}, "data.download=true needs data.archive"),
        ({"channels": 4}, "data.channels must be"),
        ({"labels": "names"}, "data.labels must be null or subfolders, not names"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named_at_construction(root, settings, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        folder(root, **settings)


def test_too_few_images_are_an_error(root):
    fill(root, 2)
    with pytest.raises(DataError, match="too few"):
        folder(root).load()


@pytest.mark.skipif(not MONET.is_dir(), reason="the paintings are not here")
def test_the_monets_are_all_there():
    data = folder(MONET, image_size=64, batch_size=32, on_bad="fail")
    assert sizes(data) == [858, 107, 107]
    assert len(everything(data)) == 1072
    mean = torch.cat([part.pixels(slice(None)) for part in data.splits]).double().mean((0, 2, 3))
    assert mean.tolist() == pytest.approx([132.6, 130.4, 120.4], abs=0.5)
