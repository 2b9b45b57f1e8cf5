"""The number of processes is read from the environment; leftover variables are ignored."""

import os

import pytest

from vae_lab.system.processes import READ_BY_LIGHTNING, SIZES, Ranks, by_torchrun, ranks, size_warning

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "a"}
STEP = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
JOB = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
BY_HAND = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
CASES = {  # what is set: the ranks, and what is said to be ignored
    "nothing": ({}, Ranks(), None),
    "torchrun": (TORCHRUN, Ranks(1, 2, 1), None),
    "a Slurm step": (STEP, Ranks(3, 4, 2), None),
    "a Slurm step that does not say how many tasks a node has": (
        {key: STEP[key] for key in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")},
        Ranks(3, 4, 1),
        None,
    ),
    "torchrun in a Slurm step": (STEP | TORCHRUN, Ranks(1, 2, 1), None),
    "a Slurm step in a shell with a leftover of torchrun": (STEP | {"TORCHELASTIC_RUN_ID": "a"}, Ranks(3, 4, 2), None),
    "a Slurm job without a step": (JOB, Ranks(), "SLURM_NTASKS=4 is ignored"),
    "a Slurm step of one task": (JOB | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, Ranks(), None),
    "variables set by hand": (BY_HAND, Ranks(), "WORLD_SIZE=2 is ignored"),
    "an MPI job": ({"OMPI_COMM_WORLD_SIZE": "8"}, Ranks(), "OMPI_COMM_WORLD_SIZE=8 is ignored"),
    "one process by hand": ({"RANK": "0", "WORLD_SIZE": "1"}, Ranks(), None),
    "a leftover of torchrun": ({"TORCHELASTIC_RUN_ID": "a"}, Ranks(), None),
    "a number of processes that is none": ({"WORLD_SIZE": "abc"}, Ranks(), "WORLD_SIZE=abc is ignored"),
}
MALFORMED = {
    "RANK": {"RANK": "abc"},
    "LOCAL_RANK": {"LOCAL_RANK": ""},
    "SLURM_STEP_NUM_TASKS": STEP | {"SLURM_STEP_NUM_TASKS": "x"},
    "SLURM_PROCID": {"SLURM_STEP_NUM_TASKS": "2"},
    "WORLD_SIZE": TORCHRUN | {"WORLD_SIZE": "two"},
}


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without any of these variables."""
    for name in [*TORCHRUN, *STEP, *JOB, *BY_HAND, *SIZES, *READ_BY_LIGHTNING]:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("case", CASES)
def test_who_started_this_process_is_read_from_its_environment(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment, expected, ignored = CASES[case]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ranks() == expected
    assert by_torchrun() == (set(TORCHRUN) <= set(environment))
    line = size_warning()
    assert line == ignored if ignored is None else str(line).startswith(f"{ignored} and this process trains alone; ")


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_number_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in MALFORMED[name].items():
        monkeypatch.setenv(key, value)
    value = os.environ.get(name, "")
    with pytest.raises(ValueError, match=rf"^{name}={value}: torchrun and srun set it to a whole number; unset it"):
        ranks()
