"""Models from folders and files; whatever is not one is refused in one readable error."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import vashista_theory as vt  # noqa: E402
from tests.models import tiny  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a tokenizer of letters, as `save_pretrained` writes them."""
    import tokenizers

    path = tmp_path_factory.mktemp("model")
    (model,) = tiny.models("llama", "sdpa")
    model.save_pretrained(path)
    letters = {chr(97 + i): i + 1 for i in range(26)} | {"?": 0}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(letters, unk_token="?"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    transformers.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="?").save_pretrained(path)
    return path


def test_a_folder_and_vashista(folder: Path) -> None:
    vt.models.register()
    try:
        model, tokenizer, source = vt.models.load(folder, attn_implementation="vashista")
        assert source == str(folder)
        assert not model.training
        assert model.dtype == torch.float32
        ids = tokenizer("the hull of the keys", return_tensors="pt")["input_ids"]
        assert model.generate(ids, max_new_tokens=3, do_sample=False).shape[1] == ids.shape[1] + 3
    finally:
        vt.models.unregister()


def test_vashista_before_it_is_registered(folder: Path) -> None:
    vt.models.unregister()
    with pytest.raises(ValueError, match=r"vt\.models\.register\(\)"):
        vt.models.load(folder, attn_implementation="vashista")


def test_a_model_without_the_attention_interface(tmp_path: Path, folder: Path) -> None:
    config = transformers.BloomConfig(vocab_size=61, hidden_size=32, n_layer=1, n_head=4)
    transformers.BloomForCausalLM(config).save_pretrained(tmp_path)
    for file in folder.glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    vt.models.register()
    try:
        with pytest.raises(vt.models.UnsupportedModelError, match="eager"):
            vt.models.load(tmp_path, attn_implementation="vashista")
    finally:
        vt.models.unregister()


@pytest.mark.parametrize("name", ["smollm", "nowhere/at/all", "./missing", "missing.gguf"])
def test_unknown_models(name: str) -> None:
    with pytest.raises(ValueError, match="smollm2-135m") as caught:
        vt.models.load(name)
    assert name in str(caught.value)


def test_a_hub_id_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody listens there, which is known at once; a name that nobody resolves takes a minute.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)  # the hub's client tries again
    with pytest.raises(vt.models.FetchError, match="network") as caught:
        vt.models.load("nobody/no-such-model")
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(vt.models.ModelFileError, match=r"config\.json"):
        vt.models.load(tmp_path)


def test_weights_cut_short(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(vt.models.ModelFileError, match="whole"):
        vt.models.load(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 not a model", b"GGUF", b"GGUF\x03\0\0\0" * 9]
)
def test_files_that_are_no_gguf(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.gguf"
    path.write_bytes(content)
    with pytest.raises(vt.models.ModelFileError, match=r"GGUF|whole") as caught:
        vt.models.load(path)
    assert str(path) in str(caught.value)
