"""Blocks as tasks of a Dask cluster, whose workers write their results themselves."""

# dask.distributed publishes types that are partly unknown; this module is where that stops.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

import contextlib
import functools
import logging
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import xarray as xr

from vashista_theory._version import install
from vashista_theory.runs.block_writer import BlockWriter
from vashista_theory.runs.manifest import package_versions

Compute = Callable[[int], xr.Dataset]

# Goes to the workers as text: one without the package could not even receive a function of it.
_PROBE = (
    "__import__('vashista_theory.runs.manifest', fromlist=['package_versions']).package_versions()"
)
SECONDS_TO_CONNECT = 10.0
_AGAIN = "finished blocks are kept; run the same command again to go on from there"


class ClusterError(RuntimeError):
    """A cluster that cannot be used, or not any longer; the message says why and what to do."""


class Cluster:
    """Workers of a Dask cluster. Made by `connect`."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name

    def __str__(self) -> str:
        count = len(self._client.scheduler_info(n_workers=-1)["workers"])
        workers = f"{count} worker" + ("" if count == 1 else "s")
        waiting = "" if count else " yet: blocks wait for the first one"
        return f"{self._name}, {workers}{waiting}; dashboard at {self.dashboard}"

    @property
    def dashboard(self) -> str:
        """The address at which a browser shows the cluster at work (needs bokeh there)."""
        return str(self._client.dashboard_link)

    def finished(
        self, writer: BlockWriter, compute: Compute, blocks: Sequence[int]
    ) -> Iterator[int]:
        """Have blocks computed and written; gives each one's number once it is on disk.

        A block whose worker is lost goes to another one. An error in a block ends the iteration.

        Args:
            writer: Opened by every worker, so it has to reach the place.
            compute: From a block's number to its variables; pickled.
            blocks: Their numbers.

        Raises:
            ClusterError: Workers die of a block, differ from this process, or went away.
            Exception: What `compute` or `writer` raised on a worker.
        """
        from distributed import as_completed
        from distributed.protocol.pickle import dumps

        job = _Job(writer, compute, package_versions())
        # By position: Dask takes a large keyword argument for data of its own and loses its place.
        futures: list[Any] = self._client.map(
            _perform,
            list(blocks),
            [dumps(job)] * len(blocks),
            key=f"block-{uuid.uuid4().hex}",
            pure=False,
        )
        numbers = {future.key: block for future, block in zip(futures, blocks, strict=True)}
        try:
            for future in as_completed(futures):
                # Its result is on disk: fetching it from a worker that may die meanwhile is no use.
                self._raise_failure(future)
                yield numbers[future.key]
                future.release()
        finally:
            # Nothing is left of a run that has ended; a scheduler that is gone has nothing either.
            with contextlib.suppress(Exception):
                self._client.cancel(futures, reason="the run has ended")

    def check(self) -> None:
        """Refuse workers without this package, or with other versions.

        Those that join later are held to the same before their first block.

        Raises:
            ClusterError: Some worker differs; the message names it and what to install.
        """
        found: dict[str, Any] = self._client.run(eval, _PROBE, on_error="return")
        for address, answer in sorted(found.items()):
            if isinstance(answer, Exception):
                raise ClusterError(_unusable(address, answer))
            _refuse_other_versions(address, answer, package_versions())

    def _raise_failure(self, future: Any) -> None:
        from distributed import KilledWorker

        if future.status == "cancelled":
            raise ClusterError(f"{self._name} went away; {_AGAIN}")
        if future.status != "error":
            return  # finished; or finished and then lost with its worker, which is the same here
        try:
            future.result()
        except KilledWorker as error:
            raise ClusterError(
                f"workers died {error.allowed_failures + 1} times while computing one block, the "
                f"last at {error.last_worker.address}; they may lack memory (see their logs). "
                f"Otherwise, {_AGAIN}"
            ) from error
        except ModuleNotFoundError as error:
            raise ClusterError(_unusable("that joined later", error)) from error


class _Job(NamedTuple):
    writer: BlockWriter
    compute: Compute
    versions: dict[str, str]


def _perform(block: int, job: bytes) -> None:
    """One task, on a worker."""
    opened = _open(job)
    opened.writer.write(block, opened.compute(block))


@functools.lru_cache(maxsize=1)
def _open(job: bytes) -> _Job:
    # Once a process: opening a store takes several requests, and the versions do not change.
    from distributed import get_worker
    from distributed.protocol.pickle import loads

    address = str(get_worker().address)
    try:
        opened = loads(job)
    except OSError as error:
        raise OSError(
            f"the worker at {address} cannot open the store ({error}); give one that every worker "
            "and this machine share, and the workers the credentials for it"
        ) from error
    _refuse_other_versions(address, package_versions(), opened.versions)
    return opened


def check_request(workers: int | None, scheduler: str | None) -> None:
    """Refuse what `if_asked` could not serve.

    Raises:
        ValueError: `workers` is no integer above 0, or both were given.
    """
    if workers is not None and (type(workers) is not int or workers < 1):
        raise ValueError(f"workers is {workers!r}; expected an integer of at least 1")
    if workers is not None and scheduler is not None:
        raise ValueError(
            f"workers is {workers} and scheduler is {scheduler}; a cluster is either started here "
            "or running already: give one of them"
        )


def if_asked(
    workers: int | None, scheduler: str | None
) -> contextlib.AbstractContextManager[Cluster | None]:
    """`connect`, or nothing where neither workers nor a scheduler were asked for."""
    if workers is None and scheduler is None:
        return contextlib.nullcontext()
    return connect(workers=workers, scheduler=scheduler, timeout=SECONDS_TO_CONNECT)


@contextlib.contextmanager
def connect(
    *, workers: int | None = None, scheduler: str | None = None, timeout: float = 10.0
) -> Generator[Cluster]:
    """Start a cluster on this machine, or use a running one, for the length of a `with` block.

    Args:
        workers: Processes to start here, each computing on one thread.
        scheduler: Address of a running scheduler instead, such as ``tcp://10.0.0.5:8786``.
        timeout: Seconds to wait for that scheduler.

    Raises:
        ValueError: Both were given, or neither, or `workers` is below 1.
        ImportError: Dask is not installed.
        ClusterError: The scheduler does not answer, or workers differ from this process.
    """
    if (workers is None) == (scheduler is None):
        raise ValueError(
            f"workers is {workers} and scheduler is {scheduler!r}; expected exactly one of them"
        )
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; expected at least 1")
    with contextlib.ExitStack() as stack:
        client = _running(scheduler, timeout, stack) if scheduler else _local(workers or 1, stack)
        name = f"Dask scheduler at {scheduler}" if scheduler else "Dask cluster on this machine"
        cluster = Cluster(client, name)
        cluster.check()
        yield cluster


def _running(scheduler: str, timeout: float, stack: contextlib.ExitStack) -> Any:
    client_class, _ = _distributed()
    try:
        return stack.enter_context(client_class(scheduler, timeout=timeout))
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {scheduler} ({_words(error)}); expected an address such "
            "as tcp://10.0.0.5:8786. Start one with `dask scheduler`, or check address and network"
        ) from None


def _local(workers: int, stack: contextlib.ExitStack) -> Any:
    client_class, cluster_class = _distributed()
    # Port 0: any free one, since the usual one may be taken by another run.
    made = cluster_class(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.ERROR,
        # XLA's threads; Dask itself sees to those of OpenMP and of BLAS libraries.
        env={"NPROC": "1"},
    )
    return stack.enter_context(client_class(stack.enter_context(made)))


def _distributed() -> tuple[Any, Any]:
    try:
        import distributed
    except ImportError:
        raise ImportError(f"a cluster needs dask.distributed: {install('cluster')}") from None
    return distributed.Client, distributed.LocalCluster


def _refuse_other_versions(address: str, found: dict[str, str], expected: dict[str, str]) -> None:
    differences = [
        f"{package} {found.get(package, 'not installed')} (here {version})"
        for package, version in expected.items()
        if not _same(package, found.get(package, ""), version)
    ]
    if differences:
        raise ClusterError(
            f"the worker at {address} has {', '.join(differences)}; results are the same bit for "
            "bit with the same versions only: install those of this machine there"
        )


def _same(package: str, found: str, expected: str) -> bool:
    # Python's patch releases compute the same.
    parts = 2 if package == "python" else None
    return found.split(".")[:parts] == expected.split(".")[:parts]


def _unusable(address: str, error: Exception) -> str:
    return (
        f"the worker {address} lacks what the blocks need ({_words(error)}); install this version "
        "of vashista-theory[cluster] where the workers run"
    )


def _words(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
