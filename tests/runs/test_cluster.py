"""Workers may be any number, elsewhere, killed or wrong: the dataset is the same, or it is said."""

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs import cluster_cases, problem
from tests.runs.interrupted import kill_after
from vashista_theory import runs

pytest.importorskip("distributed")

ROOT = Path(__file__).resolve().parents[2]
BUCKET = "sweeps"
WITH_S3 = all(importlib.util.find_spec(name) for name in ("moto", "flask", "flask_cors", "s3fs"))


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """An S3-compatible server on loopback, and a bucket of it; workers inherit where it is."""
    if not WITH_S3:
        yield ""
        return
    import boto3
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        client.close()
        try:
            yield f"s3://{BUCKET}"
        finally:
            server.stop()


@pytest.fixture(scope="module")
def cluster(s3: str) -> Iterator[runs.Cluster]:
    del s3  # only to be there before: workers take the environment as it is when they start
    with runs.connect(workers=2) as started:
        yield started


def test_two_workers_give_the_local_dataset(
    tmp_path: Path, cluster: runs.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    store = problem.open_store(tmp_path / "store")
    runs.run_blocks(store, problem.compute, cluster=cluster, progress="log")
    problem.assert_identical(store.load(), problem.expected())
    said = capsys.readouterr().err
    assert "2 workers; dashboard at http://" in said
    assert "6 of 6 blocks" in said
    assert problem.open_store(tmp_path / "store").missing() == []


def test_a_large_description_of_the_work_reaches_the_workers(
    tmp_path: Path, cluster: runs.Cluster
) -> None:
    store = problem.open_store(tmp_path / "store")
    compute = problem.Laden(b"x" * 300_000)  # above 100 kB Dask treats arguments in another way
    runs.run_blocks(store, compute, cluster=cluster, progress="none")
    problem.assert_identical(store.load(), problem.expected())


def test_a_running_scheduler_is_used(tmp_path: Path, cluster: runs.Cluster) -> None:
    address = cluster._client.scheduler.address
    store = problem.open_store(tmp_path / "store")
    with runs.connect(scheduler=address) as other:
        assert address in str(other)
        runs.run_blocks(store, problem.compute, [1, 4], cluster=other, progress="none")
    assert store.missing() == [0, 2, 3, 5]
    # Leaving it, the client took nothing along.
    runs.run_blocks(store, problem.compute, cluster=cluster, progress="none")
    problem.assert_identical(store.load(), problem.expected())


def test_a_worker_killed_midway(tmp_path: Path, cluster: runs.Cluster) -> None:
    store = problem.open_store(tmp_path / "store")
    compute = cluster_cases.KillsItsWorker(tmp_path)
    runs.run_blocks(store, compute, cluster=cluster, progress="none")
    assert (tmp_path / "killed").exists()
    problem.assert_identical(store.load(), problem.expected())


def test_an_error_in_a_block_is_raised_and_the_rest_kept(
    tmp_path: Path, cluster: runs.Cluster
) -> None:
    path = tmp_path / "store"
    with pytest.raises(ArithmeticError, match="in block 3"):
        runs.run_blocks(
            problem.open_store(path), cluster_cases.fails, cluster=cluster, progress="none"
        )
    store = problem.open_store(path)
    assert 3 in store.missing()
    runs.run_blocks(store, problem.compute, cluster=cluster, progress="none")
    problem.assert_identical(store.load(), problem.expected())


def test_a_full_disk_at_a_worker(tmp_path: Path, cluster: runs.Cluster) -> None:
    path = tmp_path / "store"
    store = problem.open_store(path)
    runs.run_blocks(store, problem.compute, [0, 1, 2], cluster=cluster, progress="none")
    with pytest.raises(OSError, match=r"block \d could not be written .*No space left on device"):
        runs.run_blocks(store, cluster_cases.DiskThatFillsUp(), cluster=cluster, progress="none")
    assert set(problem.open_store(path).missing()) <= {3, 4, 5}


def test_a_store_that_the_workers_do_not_see(tmp_path: Path, cluster: runs.Cluster) -> None:
    store = problem.open_store(tmp_path / "store")
    (tmp_path / "store" / "data.zarr").rename(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="cannot open the store"):
        runs.run_blocks(store, problem.compute, cluster=cluster, progress="none")


def test_a_place_that_only_the_worker_sees(tmp_path: Path) -> None:
    store = problem.open_store(tmp_path)
    with pytest.raises(OSError, match="every worker and this machine share"):
        store.written_elsewhere(0)
    assert 0 in store.missing()


def test_workers_of_another_version(cluster: runs.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from vashista_theory.runs import cluster as module

    theirs = module.package_versions()
    monkeypatch.setattr(module, "package_versions", lambda: theirs | {"jax": "9.9"})
    with pytest.raises(runs.ClusterError, match=rf"jax {theirs['jax']} \(here 9\.9\)") as error:
        cluster.check()
    assert "numpy" not in str(error.value)


def test_a_late_worker_of_another_version(
    tmp_path: Path, cluster: runs.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vashista_theory.runs import cluster as module

    theirs = module.package_versions()
    monkeypatch.setattr(module, "package_versions", lambda: theirs | {"jax": "9.9"})
    with pytest.raises(runs.ClusterError, match=r"here 9\.9"):
        runs.run_blocks(
            problem.open_store(tmp_path), problem.compute, cluster=cluster, progress="none"
        )


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://x", "no port"])
def test_no_scheduler_there(address: str) -> None:
    with (
        pytest.raises(runs.ClusterError, match="no Dask scheduler answers at") as error,
        runs.connect(scheduler=address, timeout=0.5),
    ):
        pass
    assert address in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one"),
        ({"workers": 1, "scheduler": "tcp://x:1"}, "exactly one"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_bad_requests(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message), runs.connect(**arguments):
        pass


def test_a_client_killed_midway(tmp_path: Path) -> None:
    path = tmp_path / "store"
    command = [sys.executable, "-m", "tests.runs.cluster_cases", str(path)]
    kill_after(2, command, path / "finished")
    store = problem.open_store(path)
    assert 0 < len(store.missing()) < problem.BLOCKS
    runs.run_blocks(store, problem.compute, progress="none")
    problem.assert_identical(store.load(), problem.expected())


@pytest.mark.skipif(not WITH_S3, reason="needs moto's server and s3fs")
class TestS3:
    @pytest.mark.slow
    def test_workers_write_there(self, s3: str, cluster: runs.Cluster) -> None:
        url = f"{s3}/whole"
        store = runs.open_store(url, problem.template(), problem.CONFIGURATION, block_size=4)
        runs.run_blocks(store, problem.compute, [0, 2, 3], cluster=cluster, progress="none")
        again = runs.open_store(url, problem.template(), problem.CONFIGURATION, block_size=4)
        assert again.missing() == [1, 4, 5]
        runs.run_blocks(again, problem.compute, cluster=cluster, progress="none")
        problem.assert_identical(again.load(), problem.expected())
        problem.assert_identical(runs.load_dataset(url), problem.expected())
        with pytest.raises(ValueError, match="another configuration"):
            runs.open_store(url, problem.template(), {"seed": 8}, block_size=4)

    def test_no_bucket(self, s3: str) -> None:
        url = s3.replace(BUCKET, "absent")
        with pytest.raises(OSError, match=f"cannot write results to {url}/x"):
            runs.open_store(f"{url}/x", problem.template(), {}, block_size=4)


@contextlib.contextmanager
def programs(environment: dict[str, str]) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler and a worker as programs: the scheduler's address and process."""
    from distributed import Client

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    address = f"tcp://127.0.0.1:{port}"
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "dask", *program],
            env={**os.environ, **environment},
            stderr=subprocess.DEVNULL,
        )
        for program in (scheduler, ["worker", address, "--no-nanny", "--nthreads", "1"])
    ]
    try:
        with Client(address, timeout=60) as client:
            client.wait_for_workers(1, timeout=60)
        yield address, running[0]
    finally:
        for process in running:
            process.kill()
            process.wait()


@pytest.mark.slow  # programs of their own; four workers started one after another
class TestSlow:
    @pytest.mark.skipif(not WITH_S3, reason="needs s3fs")
    def test_no_server(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "vashista_theory.sweep", "--quick", "--store", "s3://b/x"]
        environment = os.environ | {
            "PYTHONPATH": str(ROOT), "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
            "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
        }  # fmt: skip
        done = subprocess.run(
            [*command, "--output", str(tmp_path / "out")],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert "cannot write results to s3://b/x" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_worker_without_the_package(self, tmp_path: Path) -> None:
        (tmp_path / "sitecustomize.py").write_text(
            "import sys\n"
            "class Absent:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name.partition('.')[0] == 'vashista_theory':\n"
            "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
            "sys.meta_path.insert(0, Absent())\n"
        )
        said = r"lacks what the blocks need \(No module named 'vashista_theory"
        with (
            programs({"PYTHONPATH": str(tmp_path)}) as (address, _),
            pytest.raises(runs.ClusterError, match=said),
            runs.connect(scheduler=address),
        ):
            pass

    def test_a_scheduler_that_goes_away(self, tmp_path: Path) -> None:
        store = problem.open_store(tmp_path)
        with (
            programs({"PYTHONPATH": str(ROOT)}) as (address, scheduler),
            runs.connect(scheduler=address) as cluster,
        ):
            finished = cluster.finished(store.writer, cluster_cases.slow, store.missing())
            store.written_elsewhere(next(finished))
            scheduler.kill()
            with pytest.raises(runs.ClusterError, match="went away; finished blocks are kept"):
                list(finished)
        assert 0 < len(problem.open_store(tmp_path).missing()) < problem.BLOCKS

    def test_a_block_that_kills_every_worker(self, tmp_path: Path) -> None:
        store = problem.open_store(tmp_path / "store")
        compute = cluster_cases.KillsItsWorker(None)
        said = "died 4 times while computing one block"
        with runs.connect(workers=2) as cluster, pytest.raises(runs.ClusterError, match=said):
            runs.run_blocks(store, compute, cluster=cluster, progress="none")
