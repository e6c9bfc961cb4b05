"""Ways to damage a store, or to make a hostile one; each is drawn from a seed."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np

Draw = np.random.Generator
_EXPANDING = numcodecs.Zstd(level=1).encode(bytes(1 << 28))  # 8 kB that become 256 MB


def _files(store: Path, suffix: str = "") -> list[Path]:
    return sorted(p for p in store.rglob(f"*{suffix}") if p.is_file())


def _one(draw: Draw, of: list[Any]) -> Any:
    return of[int(draw.integers(len(of)))]


def _file(draw: Draw, store: Path) -> Path:
    """Any file, those that say what the others mean as often as the others."""
    records = [p for p in _files(store, ".json") if p.parent.name != "finished"]
    markers, chunks = _files(store / "finished"), [p for p in _files(store) if "c" in p.parts]
    return _one(draw, _one(draw, [records, markers, chunks]))


def flip_a_byte(draw: Draw, store: Path, _: Path) -> None:
    path = _file(draw, store)
    content = bytearray(path.read_bytes())
    content[int(draw.integers(len(content)))] ^= 1 << int(draw.integers(8))
    path.write_bytes(content)


def truncate(draw: Draw, store: Path, _: Path) -> None:
    path = _file(draw, store)
    os.truncate(path, int(draw.integers(path.stat().st_size)))


def empty(draw: Draw, store: Path, _: Path) -> None:
    _file(draw, store).write_bytes(b"")


def delete(draw: Draw, store: Path, _: Path) -> None:
    _file(draw, store).unlink()


def noise(draw: Draw, store: Path, _: Path) -> None:
    _file(draw, store).write_bytes(draw.bytes(int(draw.integers(1, 4000))))


def delete_a_folder(draw: Draw, store: Path, _: Path) -> None:
    shutil.rmtree(_one(draw, sorted(p for p in store.rglob("*") if p.is_dir())))


def swap_within(draw: Draw, store: Path, _: Path) -> None:
    """Two chunks of a variable, or two markers."""
    first = _file(draw, store)
    others = [p for p in first.parent.iterdir() if p.is_file()]
    second = _one(draw, others)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def rename_a_marker(draw: Draw, store: Path, _: Path) -> None:
    path = _one(draw, _files(store / "finished"))
    path.rename(path.with_name(_one(draw, ["3.json", "99999.json", "9" * 200 + ".json", "x"])))


def take_from_another(draw: Draw, store: Path, other: Path) -> None:
    """A file of the store of another configuration."""
    path = _file(draw, other)
    shutil.copy(path, store / path.relative_to(other))


def take_a_block_from_another(draw: Draw, store: Path, other: Path) -> None:
    """All its chunks and its marker."""
    marker = _one(draw, _files(store / "finished"))
    block = str(int(marker.stem))
    for chunk in (p for p in _files(other / "data.zarr") if "c" in p.parts):
        if block in chunk.relative_to(other).parts:
            shutil.copy(chunk, store / chunk.relative_to(other))
    shutil.copy(other / "finished" / marker.name, marker)


def take_a_folder_from_another(draw: Draw, store: Path, other: Path) -> None:
    folders = [p for p in sorted(other.rglob("*")) if p.is_dir()]
    path = _one(draw, folders)
    shutil.copytree(path, store / path.relative_to(other), dirs_exist_ok=True)


def folder_for_a_file(draw: Draw, store: Path, _: Path) -> None:
    path = _file(draw, store)
    path.unlink()
    path.mkdir()


def file_for_a_folder(draw: Draw, store: Path, _: Path) -> None:
    path = _one(draw, sorted(p for p in store.rglob("*") if p.is_dir()))
    shutil.rmtree(path)
    path.write_text("{}")


def link(draw: Draw, store: Path, other: Path) -> None:
    path = _file(draw, store)
    target = _one(draw, [other / path.relative_to(store), "/dev/zero", "nowhere", path.name])
    path.unlink()
    path.symlink_to(target)


def link_to_a_folder(draw: Draw, store: Path, other: Path) -> None:
    path = _one(draw, sorted(p for p in store.rglob("*") if p.is_dir()))
    shutil.rmtree(path)
    path.symlink_to(_one(draw, [other / path.relative_to(store), "/", "."]))


def pipe(draw: Draw, store: Path, _: Path) -> None:
    path = _file(draw, store)
    path.unlink()
    os.mkfifo(path)


def no_end(draw: Draw, store: Path, _: Path) -> None:
    """A file of a terabyte, without a byte on the disk."""
    os.truncate(_file(draw, store), 1 << 40)


def expanding(draw: Draw, store: Path, _: Path) -> None:
    _one(draw, [p for p in _files(store) if "c" in p.parts]).write_bytes(_EXPANDING)


NUMBERS: list[Any] = [0, -1, 1, 2**31, 2**63, 2**64, 10**30, 1e308, float("inf"), float("nan")]
VALUES = [*NUMBERS, None, True, "", "x", [], {}, [1, 2], {"a": 1}]


def change_a_record(draw: Draw, store: Path, _: Path) -> None:
    """One entry anywhere in a JSON file becomes something else, or goes, or a new one comes."""
    path = _one(draw, _files(store, ".json"))
    content = json.loads(path.read_text())
    holder, key = _one(draw, list(_places(content)))
    match int(draw.integers(3)):
        case 0:
            holder[key] = _one(draw, VALUES)
        case 1 if isinstance(holder, dict):
            del holder[key]
        case _ if isinstance(holder, dict):
            holder["added"] = _one(draw, VALUES)
        case _:
            holder.append(_one(draw, VALUES))
    path.write_text(json.dumps(content))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(entries):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def change_an_array(draw: Draw, store: Path, _: Path) -> None:
    """Another shape, type, codec or decoding of a variable, in one or both places that say it."""
    root = store / "data.zarr" / "zarr.json"
    content = json.loads(root.read_text())
    name = _one(draw, sorted(content["consolidated_metadata"]["metadata"]))
    entry = content["consolidated_metadata"]["metadata"][name]
    field, value = _one(
        draw,
        [
            ("shape", [2**40] * len(entry["shape"])),
            ("shape", [size + 1 for size in entry["shape"]]),
            ("shape", [*entry["shape"], 1]),
            ("data_type", "int8"),
            ("data_type", "float32"),
            ("data_type", "complex128"),
            ("fill_value", 7),
            ("codecs", [{"name": "bytes", "configuration": {"endian": "big"}}]),
            ("codecs", []),
            ("dimension_names", list(reversed(entry["dimension_names"]))),
            ("dimension_names", None),
            ("attributes", {"scale_factor": 2.0, "add_offset": 1.0}),
            ("attributes", {"units": "days since 1970-01-01"}),
            ("chunk_grid", {"name": "regular", "configuration": {"chunk_shape": [1]}}),
            ("chunk_grid", {"name": "regular", "configuration": {"chunk_shape": [2**50]}}),
        ],
    )
    entry[field] = value
    where = int(draw.integers(3))
    if where != 0:
        root.write_text(json.dumps(content))
    if where != 1:
        (root.parent / name / "zarr.json").write_text(json.dumps(entry))


def change_the_attributes(draw: Draw, store: Path, _: Path) -> None:
    """The record of the run, as it stands among the attributes."""
    root = store / "data.zarr" / "zarr.json"
    content = json.loads(root.read_text())
    content["attributes"][_one(draw, [*content["attributes"], "seed", "commit"])] = _one(
        draw, VALUES
    )
    root.write_text(json.dumps(content))


def other_json(draw: Draw, store: Path, _: Path) -> None:
    texts = [
        "", " ", "{}", "[]", "null", "3", '"x"', "{", "\ufeff{}", "NaN", "1e999", "\x00",
        "[" * 200_000, '{"a":' * 200_000, '{"block": ' + "9" * 5000 + "}",
        '{"format": "vashista block store 2"}', '{"format": "vashista block store 1"}',
        '{"format": "vashista block store 2", "identity": "", "layout": [], "configuration": 0}',
        " " * (1 << 20),
    ]  # fmt: skip
    _one(draw, _files(store, ".json")).write_text(_one(draw, texts), encoding="utf-8")


WAYS: list[Callable[[Draw, Path, Path], None]] = [
    flip_a_byte, truncate, empty, delete, noise, delete_a_folder, swap_within, rename_a_marker,
    take_from_another, take_a_block_from_another, take_a_folder_from_another, folder_for_a_file,
    file_for_a_folder, link, link_to_a_folder, pipe, no_end, expanding, change_a_record,
    change_an_array, change_the_attributes, other_json,
]  # fmt: skip


def damage(seed: int, store: Path, other: Path) -> str:
    """Damage a store in the way that a seed says; its name."""
    way = WAYS[seed % len(WAYS)]
    way(np.random.default_rng(seed), store, other)
    return way.__name__
