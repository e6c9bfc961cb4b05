"""Computes the missing blocks of a store: in order, on several threads, or on a cluster."""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import xarray as xr

from vashista_theory._words import count
from vashista_theory.runs.cluster import Cluster
from vashista_theory.runs.progress import Mode, Progress
from vashista_theory.runs.store import BlockStore


def run_blocks(
    store: BlockStore,
    compute: Callable[[int], xr.Dataset],
    blocks: Iterable[int] | None = None,
    *,
    threads: int = 1,
    cluster: Cluster | None = None,
    progress: Mode = "bar",
    description: str = "Computing",
) -> None:
    """Compute blocks and write each as soon as it is finished.

    A block is computed on one thread and depends on its number alone, so the stored values are
    the same bit for bit for every number of threads and of workers. JAX's local switches (x64,
    precision) hold for one thread: `compute` sets the ones it needs itself.

    Args:
        store: Where results go, and what is finished already.
        compute: From a block's number to its variables.
        blocks: Which blocks; by default every missing one. Finished ones among them are skipped.
        threads: Of this process.
        cluster: Workers that compute and write the blocks instead; `compute` is sent to them.
        progress: "bar", "log" or "none".
        description: What is being done, for the progress display.

    Raises:
        ValueError: `threads` is below 1, or a block's variables do not fit the store.
        OSError: The store cannot be written.
        ClusterError: The cluster cannot go on.
        KeyboardInterrupt: As received; finished blocks stay and a note says how to resume.
    """
    if threads < 1:
        raise ValueError(f"threads is {threads}; expected at least 1")
    missing = set(store.missing())
    todo = sorted(missing if blocks is None else missing.intersection(blocks))

    def work(block: int) -> None:
        store.write(block, compute(block))

    finished = store.block_count - len(missing)
    total = finished + len(todo)
    at_once = threads if cluster is None else 1
    with Progress(
        total, description=description, mode=progress, done=finished, at_once=at_once
    ) as display:
        for fault in store.faults:
            display.note(f"{fault}; computing it again")
        try:
            if cluster is not None:
                display.note(str(cluster))
                for block in cluster.finished(store.writer, compute, todo):
                    store.written_elsewhere(block)
                    display.advance()
            elif threads == 1:
                for block in todo:
                    work(block)
                    display.advance()
            else:
                _run_threads(work, todo, threads, display)
        except KeyboardInterrupt:
            done = store.block_count - len(store.missing())
            display.note(
                f"Stopped: {done} of {count(store.block_count, 'block')} are finished in "
                f"{store.path}. "
                "Run the same command again to go on from there."
            )
            raise


def _run_threads(
    work: Callable[[int], None], todo: list[int], threads: int, display: Progress
) -> None:
    with ThreadPoolExecutor(max_workers=threads) as pool:
        running: set[Future[None]] = {pool.submit(work, block) for block in todo}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    display.advance()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
