"""A study on two worker processes, one of which is killed while it works."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from distributed import LocalCluster

from fragility.cli import main
from fragility.study import cluster
from fragility.study.attacks import attack_sweep
from fragility.study.piece import Tolerance
from fragility.study.run import run
from fragility.study.store import provenance, read
from fragility.study.verify import differences

STARTED = 90  # seconds a worker may take to import PyTorch


@pytest.fixture
def scheduler() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=50) as local:
        yield local


def start_worker(address: str, folder: Path) -> subprocess.Popen[bytes]:
    options = ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory", str(folder))
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, *options]
    threads = str(torch.get_num_threads())  # on which the last digits of a sum depend
    with (folder / "worker.log").open("ab") as log:
        return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": threads}, stdout=log, stderr=log)


def wait_until(true: Callable[[], bool]) -> None:
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < STARTED
        time.sleep(0.05)


def test_a_worker_is_killed_and_nothing_is_lost(scheduler: LocalCluster, tmp_path: Path) -> None:
    address, book = scheduler.scheduler_address, scheduler.scheduler
    workers = [start_worker(address, tmp_path) for _ in range(2)]
    together, alone = tmp_path / "together", tmp_path / "alone"
    table = together / "attack_sweep-fast.csv"
    killed_at = []

    def kill_one_of_two() -> None:
        wait_until(lambda: table.exists() and all(len(state.processing) for state in book.workers.values()))
        workers[0].send_signal(signal.SIGKILL)
        workers[0].wait()
        killed_at.append(len(table.read_text().splitlines()) - 1)

    try:
        wait_until(lambda: len(book.workers) == 2)
        killer = threading.Thread(target=kill_one_of_two)
        killer.start()
        outcome = run("attack_sweep", "fast", folder=together, scheduler=address)
        killer.join()
        assert 0 < killed_at[0] < outcome.rows == 156
        assert (outcome.computed, outcome.missing) == (28, 0)
        assert len(book.workers) == 1
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    (session,) = provenance("attack_sweep", "fast", together)["sessions"]
    assert len(session["workers"]) == 2
    assert all(worker["threads"] == torch.get_num_threads() for worker in session["workers"])
    run("attack_sweep", "fast", folder=alone)
    tables = (read("attack_sweep", "fast", folder) for folder in (alone, together))
    assert list(differences(*tables, attack_sweep.STUDY.columns, Tolerance())) == []


def test_a_piece_made_with_other_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="expected the weights and images of this worker"):
        cluster.work("attack_sweep", "fast", "cpu", {"weights": "other", "images": ["a"], "first": 0})


def test_a_scheduler_out_of_reach_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    request = ["run", "attack_sweep", "--profile", "fast", "--results", str(tmp_path)]
    assert main([*request, "--scheduler", "tcp://127.0.0.1:9"]) == 2
    assert "tcp://127.0.0.1:9" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
