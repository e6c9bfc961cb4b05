"""A store behind a URL keeps what a store in a folder keeps."""

import uuid

import pytest

from tests.runs import problem
from vashista_theory import runs
from vashista_theory.runs import _arrays, places

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4().hex}"


def open_store(url: str) -> runs.BlockStore:
    size = problem.BLOCK_SIZE
    return runs.open_store(url, problem.template(), problem.CONFIGURATION, block_size=size)


def test_filled_resumed_and_read(url: str) -> None:
    runs.run_blocks(open_store(url), problem.compute, [0, 2, 3], progress="none")
    store = open_store(url)
    assert store.missing() == [1, 4, 5]
    runs.run_blocks(store, problem.compute, threads=2, progress="none")
    problem.assert_identical(store.load(), problem.expected())
    problem.assert_identical(runs.load_dataset(url), problem.expected())
    store.annotate({"seed": 7})
    assert runs.load_dataset(url).attrs["seed"] == 7


def test_damage_is_noticed_and_redone(url: str) -> None:
    runs.run_blocks(open_store(url), problem.compute, progress="none")
    files, root = fsspec.url_to_fs(url)
    files.pipe_file(f"{root}/data.zarr/gap/c/1", b"noise" * 20)
    files.pipe_file(f"{root}/finished/00004.json", b"[]")
    store = open_store(url)
    assert [fault.block for fault in store.faults] == [1, 4]
    runs.run_blocks(store, problem.compute, progress="none")
    problem.assert_identical(store.load(), problem.expected())


def test_another_configuration_is_refused(url: str) -> None:
    open_store(url)
    with pytest.raises(ValueError, match="another configuration"):
        runs.open_store(url, problem.template(), {"seed": 8}, block_size=problem.BLOCK_SIZE)


def test_a_killed_creation_is_begun_again(url: str) -> None:
    def killed(new: places.Place) -> None:
        new.write_text("data.zarr/part", "half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        places.place(url).create(killed, killed)
    with pytest.raises(FileNotFoundError, match="not a block store"):
        runs.load_dataset(url)
    store = open_store(url)
    assert store.missing() == list(range(problem.BLOCKS))
    assert not places.place(url).exists("data.zarr/part")


@pytest.mark.parametrize("theirs", [problem.CONFIGURATION, {"seed": 8}], ids=["same", "other"])
def test_a_creation_that_another_process_begins_anew(
    url: str, monkeypatch: pytest.MonkeyPatch, theirs: dict
) -> None:
    """It might have been killed, for all they know: the later one goes on, the first is told."""
    create = _arrays.create

    def overtaken(*arguments: object) -> None:
        create(*arguments)
        monkeypatch.setattr(_arrays, "create", create)
        others = runs.open_store(url, problem.template(), theirs, block_size=problem.BLOCK_SIZE)
        runs.run_blocks(others, problem.compute, progress="none")

    monkeypatch.setattr(_arrays, "create", overtaken)
    with pytest.raises(FileExistsError, match="another process began to create") as error:
        open_store(url)
    assert url in str(error.value)
    problem.assert_identical(runs.load_dataset(url), problem.expected())


def test_foreign_objects_are_left_alone(url: str) -> None:
    files, root = fsspec.url_to_fs(url)
    files.pipe_file(f"{root}/thesis.txt", b"years of work")
    with pytest.raises(FileExistsError, match="not a store"):
        open_store(url)
    assert files.ls(root, detail=False) == [f"{root}/thesis.txt"]


def test_without_permission(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    store = open_store(url)
    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "pipe_file", refused)
    with pytest.raises(PermissionError, match=r"cannot write results to memory:.*Access Denied"):
        open_store(url)
    with pytest.raises(PermissionError, match="block 0 could not be written to memory:"):
        store.write(0, problem.compute(0))
    assert 0 in store.missing()


def test_an_unknown_protocol() -> None:
    with pytest.raises(ValueError, match="nosuch"):
        open_store("nosuch://x/y")


def test_a_file_url_is_a_folder(tmp_path) -> None:
    open_store(f"file://{tmp_path}/store")
    assert problem.open_store(tmp_path / "store").missing() == list(range(problem.BLOCKS))
