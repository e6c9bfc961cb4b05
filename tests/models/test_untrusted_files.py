"""Model files may come from anybody: nothing of theirs is run, nothing beside them is read, and
what is damaged is refused by name."""

import io
import json
import pickle
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("gguf")

import vashista_theory as vt  # noqa: E402
from tests.models import saved  # noqa: E402
from vashista_theory.models import fetching, gguf_header  # noqa: E402

WEIGHTS, TEXT = "model.safetensors", "the hull ab"
Tensors = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved.write_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return saved.write_gguf(path, saved.gguf_tensors())


def copied(folder: Path, to: Path) -> Path:
    return shutil.copytree(folder, to / "copy")


def refused(place: Path) -> str:
    """The message, which is one line and names the place."""
    with pytest.raises(vt.models.ModelFileError) as caught:
        vt.models.load(place)
    assert isinstance(caught.value, ValueError)
    said = str(caught.value)
    assert "\n" not in said
    assert str(place) in said
    return said


def drop(tensors: Tensors, name: str) -> None:
    del tensors[name]


def spoil(tensors: Tensors, name: str) -> None:
    tensors[name][..., -1] = np.nan


def blow_up(tensors: Tensors, name: str) -> None:
    tensors[name][..., 0] = np.inf


def cut(tensors: Tensors, name: str) -> None:
    tensors[name] = tensors[name][:-1].clone() if torch.is_tensor(tensors[name]) else 0


def add(tensors: Tensors, name: str) -> None:
    tensors[name + ".bias"] = tensors[name] * 1


@given(data=st.data(), damage=st.sampled_from([drop, spoil, blow_up, cut, add]))
def test_a_folder_with_one_tensor_wrong(
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    damage: Callable[[Tensors, str], None],
) -> None:
    from safetensors.torch import load_file, save_file

    place = copied(folder, tmp_path_factory.mktemp("damaged"))
    tensors = load_file(place / WEIGHTS)
    name = data.draw(st.sampled_from(sorted(tensors)))
    damage(tensors, name)
    save_file(tensors, place / WEIGHTS, metadata={"format": "pt"})
    assert name in refused(place)


@given(data=st.data(), damage=st.sampled_from([drop, spoil, blow_up, add]))
def test_a_gguf_file_with_one_tensor_wrong(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    damage: Callable[[Tensors, str], None],
) -> None:
    tensors = saved.gguf_tensors()
    # Without its own output, a model takes the embedding for one: another model, but a whole one.
    name = data.draw(st.sampled_from(sorted(set(tensors) - {"output.weight"})))
    damage(tensors, name)
    path = saved.write_gguf(tmp_path_factory.mktemp("damaged") / "tiny.gguf", tensors)
    said = refused(path)
    if damage is add:
        assert name + ".bias" in said


@pytest.mark.parametrize("layers", [1, 3, 2**31 - 1])
def test_a_gguf_file_that_announces_other_layers_than_it_holds(tmp_path: Path, layers: int) -> None:
    path = saved.write_gguf(tmp_path / "tiny.gguf", saved.gguf_tensors(), layers=layers)
    assert f"announces {layers:,} layers and holds tensors of 2" in refused(path)


@given(
    place=st.integers(4, 1500),
    value=st.sampled_from([0, 1, 255, 2**31, 2**32 - 1, 2**60, 2**64 - 1]),
)
def test_hostile_numbers_in_a_gguf_header(
    gguf_file: Path, tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    """Each ends in a header or in one refusal, never in another error or a count without end."""
    content = bytearray(gguf_file.read_bytes())
    content[place : place + 8] = struct.pack("<Q", value)
    path = tmp_path_factory.mktemp("hostile") / "tiny.gguf"
    path.write_bytes(content)
    try:
        gguf_header.read_header(path)
    except vt.models.ModelFileError as error:
        assert str(path) in str(error)  # noqa: PT017 - both outcomes are right


def test_a_gguf_file_cut_anywhere(gguf_file: Path, tmp_path: Path) -> None:
    content = gguf_file.read_bytes()
    for length in range(0, len(content) // 2, 997):
        path = tmp_path / "tiny.gguf"
        path.write_bytes(content[:length])
        with pytest.raises(vt.models.ModelFileError, match=r"tiny\.gguf"):
            gguf_header.read_header(path)


def poison(place: Path, folder: Path) -> None:
    """Put beside a GGUF file whatever a loader might read, all of it of another model."""
    for file in folder.iterdir():
        shutil.copy(file, place / file.name)
    tokenizer = json.loads((place / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = dict(zip(vocabulary, reversed(vocabulary.values()), strict=True))
    (place / "tokenizer.json").write_text(json.dumps(tokenizer))
    (place / "adapter_config.json").write_text('{"base_model_name_or_path": "nobody/nothing"}')
    (place / "added_tokens.json").write_text('{"the": 7}')


def answers(place: Path | str) -> tuple[list[int], np.ndarray]:
    model, tokenizer, source = vt.models.load(place)
    assert source == str(place)
    assert tokenizer.name_or_path == model.config.name_or_path == str(place)
    with torch.no_grad():
        logits = model(torch.arange(7)[None]).logits
    return tokenizer(TEXT)["input_ids"], logits.numpy()


def test_neighbours_of_a_gguf_file_are_not_read(
    gguf_file: Path, folder: Path, tmp_path: Path
) -> None:
    alone = answers(gguf_file)
    path = tmp_path / gguf_file.name
    shutil.copy(gguf_file, path)
    poison(tmp_path, folder)
    beside = answers(path)
    assert beside[0] == alone[0]
    np.testing.assert_array_equal(beside[1], alone[1])


def test_neighbours_of_a_packaged_model(
    gguf_file: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`load` does not read them; `fetch` moves them away and says so, for other loaders' sake."""
    size, digest = fetching._digest(gguf_file)
    model = fetching.PackagedModel("x==1", "x.whl", "", "x/tiny.gguf", digest, size, "none")
    monkeypatch.setattr(fetching, "MODELS", {"tiny": model})
    monkeypatch.setattr("vashista_theory.models.loading.MODELS", {"tiny": model})
    monkeypatch.setenv("VASHISTA_CACHE", str(tmp_path))
    place = tmp_path / "tiny"
    place.mkdir()
    shutil.copy(gguf_file, place)
    poison(place, folder)
    ids, logits = answers("tiny")
    alone = answers(gguf_file)
    assert ids == alone[0]
    np.testing.assert_array_equal(logits, alone[1])
    with pytest.warns(UserWarning, match=r"adapter_config\.json, added_tokens\.json.* now in"):
        assert vt.models.fetch("tiny") == place / "tiny.gguf"
    assert [entry.name for entry in place.iterdir()] == ["tiny.gguf"]
    (aside,) = tmp_path.glob("tiny-set-aside-*")
    assert (aside / "tokenizer.json").is_file()
    assert vt.models.fetch("tiny") == place / "tiny.gguf"  # and nothing more to say


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def code_for(place: Path, kind: str, file: Path) -> None:
    """Make a model folder that runs code where it is trusted."""
    touch = f"import pathlib\npathlib.Path({str(file)!r}).touch()\n"
    if kind == "pickle":
        (place / WEIGHTS).unlink()
        (place / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(file)))
        return
    if kind == "generate":
        (place / "custom_generate").mkdir()
        (place / "custom_generate" / "generate.py").write_text(touch + "def generate(**_): ...\n")
        return
    (place / "evil.py").write_text(touch + "class Evil: ...\n")
    name, entry = {
        "config": ("config.json", {"AutoConfig": "evil.Evil"}),
        "model": ("config.json", {"AutoModelForCausalLM": "evil.Evil"}),
        "tokenizer": ("tokenizer_config.json", {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}),
    }[kind]
    content = json.loads((place / name).read_text()) | {"auto_map": entry}
    if kind == "config":
        content["model_type"] = "evil"
    if kind == "tokenizer":
        content["tokenizer_class"] = "Evil"
    (place / name).write_text(json.dumps(content))


@pytest.mark.parametrize("kind", ["config", "model", "tokenizer", "generate", "pickle"])
def test_code_that_comes_with_a_model_is_not_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Nor asked about: whoever answers yes to everything is no better off."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    place, file = copied(folder, tmp_path), tmp_path / "it ran"
    code_for(place, kind, file)
    if kind == "model":  # known without the code, so loaded without it
        vt.models.load(place)
    else:
        refused(place)
    assert not file.exists()
    assert sys.stdin.read() == "y\n" * 9


def test_a_kernel_that_the_folder_asks_for_is_not_fetched(folder: Path, tmp_path: Path) -> None:
    place = copied(folder, tmp_path)
    content = json.loads((place / "config.json").read_text())
    content |= {"attn_implementation": "nobody/kernel", "_attn_implementation": "nobody/kernel"}
    (place / "config.json").write_text(json.dumps(content))
    assert vt.models.load(place).model.config._attn_implementation == "sdpa"


def test_an_adapter_beside_the_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    place = copied(folder, tmp_path)
    (place / "adapter_config.json").write_text('{"base_model_name_or_path": "nobody/nothing"}')
    assert "has an adapter" in refused(place)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "\x00", "[" * 100_000, '{"a":' * 100_000, '{"n": ' + "9" * 5000 + "}",
     '{"model_type": "llama", "num_hidden_layers": 1000000000}',
     '{"model_type": "mixtral", "num_local_experts": 1e300}',
     '{"model_type": "gemma3", "text_config": {"num_hidden_layers": 99999999}}'],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_a_hostile_configuration(folder: Path, tmp_path: Path, content: str) -> None:
    place = copied(folder, tmp_path)
    (place / "config.json").write_text(content)
    assert "config.json" in refused(place)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", WEIGHTS])
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff" * 64, b"[" * 9999])
def test_other_files_damaged(folder: Path, tmp_path: Path, name: str, content: bytes) -> None:
    place = copied(folder, tmp_path)
    (place / name).write_bytes(content)
    refused(place)
