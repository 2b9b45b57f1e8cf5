"""The bundled and the downloaded sets: real digits, a real download from a web server on the loopback address."""

import logging
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.datasets import MNIST, FashionMNIST

from vae_lab.data.digits import Digits
from vae_lab.data.mnist import IdxImages
from vae_lab.data.selection import check_only
from vae_lab.data.synthetic import SyntheticBlobs
from vae_lab.errors import DataError

SETTINGS: dict[str, Any] = {
    "channels": 1,
    "image_size": 28,
    "batch_size": 32,
    "eval_batch_size": 500,
    "seed": 0,
    "split_seed": 0,
}


def mnist(root: Path, *, dataset: Any = MNIST, download: bool = False, **settings: Any) -> IdxImages:
    return IdxImages(dataset=dataset, root=str(root), download=download, nval=5000, **(SETTINGS | settings))


@pytest.fixture
def server(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A web server that hands out the publisher's archives, named as MNIST's only mirror."""
    handler = partial(QuietHandler, directory=str(shared / "MNIST" / "raw"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{http.server_port}/"])
        yield f"http://127.0.0.1:{http.server_port}/"
        http.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without a log."""

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize("dataset", [MNIST, FashionMNIST])
def test_the_real_sets_are_whole_and_their_parts_apart(shared: Path, dataset: type[MNIST]) -> None:
    parts = mnist(shared, dataset=dataset).splits
    assert [len(part) for part in parts] == [55_000, 5_000, 10_000]
    assert parts.train.pixels(slice(1)).shape == (1, 1, 28, 28)
    assert parts.train.labels.unique().tolist() == list(range(10))
    original = dataset(root=shared, train=True)
    together = torch.cat([part.pixels(slice(None)) for part in parts[:2]]).sum(dtype=torch.int64)
    assert together == original.data.sum(dtype=torch.int64)
    assert torch.equal(parts.test.pixels(slice(None))[:, 0], dataset(root=shared, train=False).data)


def test_the_split_follows_its_own_seed(shared: Path) -> None:
    digest = mnist(shared).splits.val.digest()
    assert mnist(shared, seed=1).splits.val.digest() == digest
    assert mnist(shared, split_seed=1).splits.val.digest() != digest


def test_images_are_resized_where_asked(shared: Path) -> None:
    parts = mnist(shared, image_size=32, channels=3).splits
    assert parts.test.pixels(slice(2)).shape == (2, 3, 32, 32)


def test_a_download_is_checked_and_appears_whole(server: str, tmp_path: Path) -> None:
    assert len(mnist(tmp_path, download=True).splits.test) == 10_000
    assert [path.name for path in tmp_path.iterdir()] == ["MNIST"]


@pytest.mark.parametrize("root", ["", "new/folder", "new/MNIST/raw"])
def test_a_broken_download_leaves_nothing(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    wrong = [(name, "0" * 32) for name, _ in MNIST.resources]
    monkeypatch.setattr(MNIST, "resources", wrong)
    with pytest.raises(DataError, match=r"could not be downloaded .* data=digits"):
        _ = mnist(tmp_path / root, download=True).splits
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("root", ["data/MNIST/raw", "data/MNIST", "data", "."])
def test_a_root_one_level_off_is_found_and_nothing_downloaded(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, root: str
) -> None:
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    caplog.set_level(logging.INFO)
    (tmp_path / "data" / "monet").mkdir(parents=True)
    (tmp_path / "data" / "MNIST").symlink_to(shared / "MNIST")
    assert len(mnist(tmp_path / root, download=True).splits.test) == 10_000
    said = f"reading MNIST/raw from {tmp_path / 'data'} instead of data.root={tmp_path / root}"
    assert (said in caplog.messages) == (root != "data")
    monkeypatch.chdir(tmp_path / root)  # a relative root means the same
    assert len(mnist(Path(), download=True).splits.val) == 5_000


@pytest.mark.parametrize("place", ["raw", "."])
@pytest.mark.parametrize("name", ["mnist", "FashionMNIST"])
def test_files_without_their_folders_are_refused_rather_than_downloaded_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    (tmp_path / name / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / name / place / "train-images-idx3-ubyte.gz").write_bytes(b"")
    for root in (tmp_path / name, tmp_path / name / place):
        with pytest.raises(DataError, match=r"holds files like those of MNIST, but outside a folder MNIST/raw"):
            mnist(root, download=True).load()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["train-images-idx3-ubyte.gz"]


@pytest.mark.parametrize("root", [".", "MNIST", "MNIST/raw"])
def test_a_download_goes_where_it_is_looked_for(
    server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, root: str
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "monet").mkdir()
    assert len(mnist(tmp_path / root, download=True).splits.test) == 10_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MNIST", "monet"]
    assert any(line.endswith("/MNIST, beside 1 other files and folders (monet, …)") for line in caplog.messages)


def test_without_a_network_the_message_tells_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(DataError, match=r"could not be downloaded .*data\.root=.*data=digits"):
        _ = mnist(tmp_path, download=True).splits


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_cut_file_is_one_sentence(tmp_path: Path, name: str) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for url, _ in MNIST.resources:
        (raw / url.removesuffix(".gz")).write_bytes(b"")
    (raw / name).write_bytes(b"\0\0\x08\x03\0\0")
    with pytest.raises(DataError, match="MNIST is not in"):
        _ = mnist(tmp_path).splits


def test_digits_need_nothing_and_equal_ones_stay_together() -> None:
    data = Digits(nval=180, ntest=180, **SETTINGS)
    assert sum(len(part) for part in data.splits) == 1797
    assert len(data.splits.val) >= 180
    assert data.splits.train.pixels(slice(1)).shape == (1, 1, 28, 28)
    seen = [{row.numpy().tobytes() for row in part.pixels(slice(None))} for part in data.splits]
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]


@pytest.mark.parametrize("wrong", [{"channels": 2}, {"image_size": 0}, {"batch_size": 0}, {"eval_batch_size": -1}])
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"data\.{next(iter(wrong))}"):
        Digits(nval=180, ntest=180, **(SETTINGS | wrong))


def test_a_batch_larger_than_the_set_repeats_images(caplog: pytest.LogCaptureFixture) -> None:
    data = SyntheticBlobs(nimages=64, **(SETTINGS | {"batch_size": 49}))
    (batch,) = data.train_dataloader()
    assert len(batch.image) == 49
    assert "is larger than the training part of 48 images: each batch repeats images" in caplog.text


@pytest.mark.parametrize(("only", "names"), [([3], ("3",)), ([0, 9], ("0", "9")), ([7, 3, 3], ("3", "7"))], ids=str)
def test_some_classes_of_the_same_parts_are_kept_and_numbered_anew(only: list[int], names: tuple[str, ...]) -> None:
    whole = Digits(nval=180, ntest=180, **SETTINGS)
    some = Digits(nval=180, ntest=180, **(SETTINGS | {"only": only}))
    assert some.classes == names
    for before, after in zip(whole.splits, some.splits, strict=True):
        rows = torch.isin(before.labels, torch.tensor(only))
        assert [names[label] for label in after.labels] == [str(int(label)) for label in before.labels[rows]]
        assert torch.equal(after.pixels(slice(None)), before.pixels(slice(None))[rows])


def test_one_class_of_mnist_is_validated_on_its_share_of_the_usual_images(shared: Path) -> None:
    whole, some = mnist(shared).splits, mnist(shared, only=[3])
    assert [len(part) for part in some.splits] == [int((part.labels == 3).sum()) for part in whole]
    assert some.splits.val.labels.unique().tolist() == [0]
    assert some.classes == ("3 - three",)


@pytest.mark.parametrize("only", [[], 3, "3", [10], [-1], [1.5]], ids=str)
def test_classes_to_keep_are_checked(only: object) -> None:
    with pytest.raises(ValueError, match=r"data\.only"):
        check_only(only, 10)


def test_a_part_without_the_class_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"data\.only=\[10\]: the classes go from 0 to 9"):
        Digits(nval=1, ntest=1, **(SETTINGS | {"only": [10]}))
    with pytest.raises(DataError, match="the val part has no image of the classes"):
        Digits(nval=1, ntest=1, **(SETTINGS | {"only": [3]})).load()
