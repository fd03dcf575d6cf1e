"""Processes of one run: one that is alone says so and ends."""

import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from monai_plan.utils import RunError, join_processes, with_the_others

SCRIPT = """
import sys
import torch
from monai_plan.engines.parallel import mean_over_ranks
from monai_plan.utils import join_processes

join_processes("gloo", float(sys.argv[1]))
print("joined", flush=True)
while True:
    mean_over_ranks(torch.ones(1000))
"""


@pytest.fixture
def start(monkeypatch):
    """A function that starts one of two processes which exchange tensors for ever."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}.items():
        monkeypatch.setenv(name, str(value))
    started = []

    def one(rank: int, timeout: float) -> subprocess.Popen:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        words = [sys.executable, "-c", SCRIPT, str(timeout)]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield one
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_dies_the_other_ends_with_an_error(start, victim):
    ranks = [start(rank, 60) for rank in range(2)]
    for rank in ranks:
        assert rank.stdout.readline() == "joined\n"
    time.sleep(0.2)
    ranks[victim].send_signal(signal.SIGKILL)
    shown = ranks[1 - victim].communicate(timeout=60)[1]
    assert ranks[1 - victim].returncode == 1
    assert "RunError: this process lost the others of its run" in shown.splitlines()[-1]


@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_nobody_joins_does_not_wait_for_ever(start, rank):
    alone = start(rank, 2)
    shown = alone.communicate(timeout=60)[1]
    assert alone.returncode == 1 and "never started" in shown.splitlines()[-1]


def test_other_faults_keep_their_type():
    with pytest.raises(KeyError, match="x"), with_the_others():
        raise KeyError("x")
    with pytest.raises(torch.OutOfMemoryError), with_the_others():
        raise torch.OutOfMemoryError("of this very process")
    with pytest.raises(RunError, match=r"lost the others.*\(closed\)") as caught, with_the_others():
        raise RuntimeError("closed")
    assert str(caught.value.__cause__) == "closed"


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_wait_is_positive(seconds):
    with pytest.raises(ValueError, match="seconds, e.g. 600"):
        join_processes("gloo", seconds)
