"""One run on two hosts: two network namespaces of this machine, joined by a cable of the kernel's."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweeping import TINY, finish, start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and Debian's iproute2"),
]
ADDRESS = "192.0.2.{}"  # of a network that RFC 5737 keeps for examples


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """The names of two network namespaces with an address each."""
    names = [f"vae_lab_{os.getpid()}_{number}" for number in range(2)]
    try:
        for name in names:
            try:
                ip("netns", "add", name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        ip("link", "add", "lab0", "netns", names[0], "type", "veth", "peer", "name", "lab1", "netns", names[1])
        for number, name in enumerate(names):
            ip("-n", name, "address", "add", f"{ADDRESS.format(number + 1)}/24", "dev", f"lab{number}")
            ip("-n", name, "link", "set", f"lab{number}", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def test_torchrun_on_two_hosts_trains_one_model(hosts: list[str], tmp_path: Path) -> None:
    processes = []
    for number, host in enumerate(hosts):
        (tmp_path / host).mkdir()
        meeting = ("--nnodes=2", f"--node-rank={number}", "--nproc-per-node=1", f"--master-addr={ADDRESS.format(1)}")
        command = (*meeting, "--master-port=29511", "-m", "vae_lab.train", *TINY, "data.batch_size=8", "logger=none")
        command += ("+callbacks.witness._target_=sabotage.Witness",)
        where = ("ip", "netns", "exec", host, "env", f"GLOO_SOCKET_IFNAME=lab{number}")
        processes.append(start(*command, cwd=tmp_path / host, module="torch.distributed.run", before=where))
    ends = [finish(process, tmp_path / host) for process, host in zip(processes, hosts, strict=True)]
    assert [code for code, _ in ends] == [0, 0], ends
    assert len(list(tmp_path.glob("*/outputs/*/*"))) == 1, "the second host makes no folder"
    seen = [json.loads(path.read_text()) for path in tmp_path.glob("*/witness-*.json")]
    assert len(seen) == 2
    assert len({one["digest"] for one in seen}) == 1
