"""An installed copy runs from an empty folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder
from sweeping import LIMIT

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_the_configs_and_runs_anywhere(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        names = archive.namelist()
    assert "vae_lab/conf/train.yaml" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "outputs/"))]
    (tmp_path / "empty").mkdir()
    line = [sys.executable, "-m", "vae_lab.train", "--cfg", "job", "data=mnist", "model.nlatent=3"]
    env = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        line, capture_output=True, text=True, cwd=tmp_path / "empty", env=env, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "nlatent: 3" in done.stdout
    assert list((tmp_path / "empty").iterdir()) == []
