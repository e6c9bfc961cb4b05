"""Bad input: each a readable error that names the value and the remedy."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest

from tests.attention.refusals import (
    BLOCK,
    DENSE,
    KEYS,
    LENGTHS,
    NAN,
    PAGE,
    POOL,
    QUERY,
    TABLE,
    filled_cache,
    new_cache,
    refused,
    with_one,
)
from vashista_theory.attention import (
    PagedKV,
    Policy,
    SummarySpec,
    dense_attention,
    vashista_attention,
)
from vashista_theory.attention.bounds.summaries import KINDS

pytestmark = pytest.mark.usefixtures("as_users_run_it")

SAMPLED = Policy.sampled(12, dense_below=0)
DECODES = {
    "not a cache": ({"cache": KEYS}, "`cache` is a ndarray", "PagedKV or a ShardedKV is expected"),
    "not a policy": ({"policy": "dense"}, "`policy` is 'dense'", "such as Policy.dense()"),
    "rank": ({"query": QUERY[0]}, "shape (4, 8)", "expects (2, H, 8)"),
    "head size": ({"query": QUERY[..., :4]}, "shape (2, 4, 4)", "expects (2, H, 8)"),
    "batch": ({"query": QUERY[:1]}, "shape (1, 4, 8)", "expects (2, H, 8)"),
    "no heads": ({"query": QUERY[:, :0]}, "shape (2, 0, 8)", "expects (2, H, 8)"),
    "heads": ({"query": QUERY[:, :3]}, "3 query heads", "2 kv heads", "multiple of Hkv"),
    "integers": ({"query": QUERY.astype(int)}, "`query` is int64", ".astype('float32')"),
    "complex": ({"query": QUERY + 1j}, "`query` is complex128", ".astype('float32')"),
    "text": ({"query": "abc"}, "`query` is <U3", "floating-point"),
    "none": ({"query": None}, "`query` is object", "floating-point"),
    "ragged": ({"query": [[1.0], [1.0, 2.0]]}, "`query` is not a rectangular array"),
    "nan": ({"query": with_one(QUERY, (1, 2, 3), NAN)}, "query[1, 2, 3] is nan", "Remove"),
    "infinity": ({"query": with_one(QUERY, (0, 0, 0), np.inf)}, "query[0, 0, 0] is inf", "Remove"),
    "implementation": ({"implementation": "cuda"}, "'cuda'", "'jax', 'mosaic_gpu'", "or None"),
    "scale zero": ({"scale": 0.0}, "scale is 0.0", "positive, finite", "or None"),
    "scale negative": ({"scale": -2}, "scale is -2", "positive, finite"),
    "scale nan": ({"scale": NAN}, "scale is nan", "positive, finite"),
    "scale infinite": ({"scale": np.inf}, "scale is inf", "positive, finite"),
    "scales": ({"scale": np.ones(2)}, "scale is array([1., 1.])", "one positive"),
    "scale text": ({"scale": "a"}, "scale is 'a'", "one positive"),
    "scale complex": ({"scale": 1j}, "scale is 1j", "one positive"),
    "scale bool": ({"scale": True}, "scale is True", "one positive"),
    "coupling negative": ({"coupling": -1.0}, "coupling is -1.0", "at least 0"),
    "coupling nan": ({"coupling": NAN}, "coupling is nan", "finite number"),
    "coupling infinite": ({"coupling": np.inf}, "coupling is inf", "finite number"),
    "coupling text": ({"coupling": "a"}, "coupling is 'a'", "0 for softmax"),
    "coupling none": ({"coupling": None}, "coupling is None", "0 for softmax"),
    "couplings": ({"coupling": np.ones(2)}, "coupling is array([1., 1.])", "0 for softmax"),
    "coupled widening": (
        {"coupling": 1.0, "policy": Policy.certified(0.1)},
        "coupling=1.0 has no certificate", "end the widening", "otherwise='keep'",
    ),
    "coupled fallback": (
        {"coupling": 0.5, "policy": Policy(pages=2, tolerance=0.1, otherwise="dense")},
        "coupling=0.5 has no certificate", "read densely", "Policy.dense()",
    ),
    "key for nothing": ({"key": jax.random.key(0)}, "this policy draws nothing", "key=None"),
    **{
        f"key {name}": ({"policy": SAMPLED, "key": key}, "key is", "jax.random.key(0)", "jax.vmap")
        for name, key in {
            "number": 3, "text": "a", "floats": np.ones(2), "signed": np.ones(2, int),
            "short": np.ones(1, np.uint32), "list": [1, 2], "bool": True,
            "several": jax.random.split(jax.random.key(0), 2),
            "several old": np.ones((2, 2), np.uint32),
        }.items()
    },
    "few tokens": (
        {"policy": Policy.sampled(8)}, "tokens is 8", "1 sink and 1 recent", "Use tokens=9 or more",
    ),
    "fewer tokens": (
        {"policy": Policy.sampled(12, sink=2, recent=0)}, "tokens is 12, but 2 sink and 1 recent",
        "(the last always counts) of 4 tokens",
    ),
    "coupled draws": (
        {"coupling": 1.0, "policy": SAMPLED}, "coupling=1.0 has no weights", "tokens=12",
        "a policy that reads pages",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DECODES.values(), ids=DECODES.keys())
def test_decoding(case):
    changed, *texts = case
    given = {"query": QUERY, "cache": filled_cache(), "policy": DENSE, **changed}
    refused(lambda: vashista_attention(**given), *texts)


@pytest.mark.parametrize(
    ("summary", "kept", "remedy"),
    [
        ("sketch", {"sketch_bits": None}, "SummarySpec(sketch_bits=4)"),
        ("box", {"box": False, "sketch_bits": None}, "SummarySpec(box=True)"),
        ("ball", {"ball": False}, "SummarySpec(ball=True)"),
        ("mean", {"ball": False}, "SummarySpec(ball=True)"),
    ],
)
def test_a_summary_that_is_not_kept(summary, kept, remedy):
    policy = Policy(pages=2, summary=summary)
    call = functools.partial(
        vashista_attention, cache=new_cache(spec=SummarySpec(**kept)), policy=policy
    )
    refused(lambda: call(QUERY), f"by {summary!r}, which this cache does not keep", remedy)
    if summary == "sketch":
        refused(lambda: call(QUERY, policy=SAMPLED), "'sketch', which this cache does not", remedy)
    refused(lambda: jax.jit(call)(QUERY), remedy)


POLICIES = {
    **{
        f"tolerance {value!r}": ({"tolerance": value}, f"tolerance is {value!r}", "example 0.05")
        for value in (0.0, 1.0, -0.1, 5, NAN, "a", True)
    },
    "tolerance array": ({"tolerance": np.array(0.1)}, "array(0.1)", "a Python number"),
    "summary": ({"summary": "boxes"}, "summary is 'boxes'", f"expected one of {(*KINDS, None)}"),
    "otherwise": ({"otherwise": "stop"}, "otherwise is 'stop'", "('keep', 'widen', 'dense')"),
    "pages zero": ({"pages": 0}, "pages is 0", "at least 1"),
    "pages negative": ({"pages": -3}, "pages is -3", "at least 1", "or None"),
    "pages large": ({"pages": 2**31}, "pages is 2147483648", "below 2**31"),
    "pages fraction": ({"pages": 1.5}, "pages is 1.5", "an integer"),
    "pages bool": ({"pages": True}, "pages is True", "an integer"),
    "superpages": ({"superpages": 0}, "superpages is 0", "at least 1"),
    "sink": ({"sink": -1}, "sink is -1", "at least 0"),
    "recent": ({"recent": -2}, "recent is -2", "at least 0"),
    "dense_below": ({"dense_below": -1}, "dense_below is -1", "at least 0"),
    "less than always": (
        {"pages": 3, "sink": 2, "recent": 2}, "pages is 3", "2 sink and 2 recent", "pages=4",
    ),
    "proof by means": (
        {"summary": "mean", "tolerance": 0.1}, "bounds nothing from above", "'sketch'",
    ),
    "widening to nothing": ({"otherwise": "widen"}, "'widen' needs a tolerance", "tolerance=0.05"),
    "falling back from nothing": ({"otherwise": "dense"}, "'dense' needs", "otherwise='keep'"),
    "no number": ({"pages": None}, "pages=None", "otherwise='keep'", "use otherwise='widen'"),
    "two levels widening": (
        {"superpages": 4, "tolerance": 0.1, "otherwise": "widen"}, "'widen'", "superpages=None",
    ),
    "few children": ({"superpages": 2}, "2 superpages", "pages=64", "superpages=4"),
    "everything, but": ({"summary": None}, "pages=64", "Policy.dense()"),
    "everything, proved": (
        {"summary": None, "pages": None, "tolerance": 0.1}, "tolerance=0.1", "Policy.dense()",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", POLICIES.values(), ids=POLICIES.keys())
def test_policies(case):
    given, *texts = case
    refused(lambda: Policy(**given), *texts)


def test_presets_check_what_they_pass_on():
    refused(lambda: Policy.budget(1), "pages is 1", "pages=2")
    refused(lambda: Policy.budget(None), "pages is None", "an integer")
    refused(lambda: Policy.budget(4, summary="boxes"), "'boxes'", "'box'")
    refused(lambda: Policy.published(0), "pages is 0", "at least 1")
    refused(lambda: Policy.sampled(0), "tokens is 0", "at least 1")
    refused(lambda: Policy.sampled(2.5), "tokens is 2.5", "an integer")
    refused(lambda: Policy.sampled(seed=-1), "seed is -1", "at least 0")
    for share in (0.0, 1.0, 1, -0.1, NAN, True, "a", np.array(0.1)):
        refused(lambda share=share: Policy.sampled(tolerance=share), "tolerance is", "0.05")
        refused(lambda share=share: Policy.sampled(confidence=share), "confidence is", "0.999999")
    refused(lambda: Policy(tokens=64), "tokens=64 are drawn", "pages=64", "Policy.sampled(64)")
    refused(lambda: replace(Policy.dense(), tokens=64), "summary=None", "Policy.sampled(64)")
    refused(lambda: Policy(confidence=0.9), "confidence=0.9", "draws none", "Policy.sampled(...)")
    refused(lambda: Policy(seed=3), "seed=3", "Policy.sampled(...)")
    refused(lambda: Policy.certified(1.5), "tolerance is 1.5", "for example 0.05")
    refused(lambda: Policy.certified(summary="mean"), "bounds nothing", "'sketch'")
    refused(lambda: replace(Policy.budget(), pages=-1), "pages is -1", "at least 1")


CACHES = {
    "batch": ({"batch": 0}, "`batch` is 0", "positive integer"),
    "kv_heads": ({"kv_heads": -1}, "`kv_heads` is -1", "positive integer"),
    "head_size": ({"head_size": 1.5}, "`head_size` is 1.5", "positive integer"),
    "pages": ({"pages": 2**40}, "`pages` is 1099511627776", "32 bits"),
    "page_size": ({"page_size": 0}, "`page_size` is 0", "positive integer"),
    "width": ({"pages_per_sequence": 2**30}, "`pages_per_sequence` is 1073741824", "Use fewer"),
    "integers": ({"dtype": "int32"}, "are int32", "'bfloat16', 'float16', 'float32'"),
    "no dtype": ({"dtype": None}, "are None", "'float32'"),
    "unknown dtype": ({"dtype": "real"}, "are 'real'", "'float32'"),
    "spec": ({"spec": "box"}, "`spec` is 'box'", "a SummarySpec is expected"),
    "odd head": ({"head_size": 7, "spec": None}, "divisible by 2, got 7", "packed=False"),
}


@pytest.mark.parametrize("case", CACHES.values(), ids=CACHES.keys())
def test_new_caches(case):
    given, *texts = case
    refused(lambda: new_cache(**given), *texts)


def test_specs():
    refused(lambda: SummarySpec(sketch_bits=3), "sketch_bits is 3", "(1, 2, 4, 6, 8), or None")
    refused(lambda: SummarySpec(dtype="int8"), "dtype is 'int8'", "'bfloat16'")
    refused(lambda: SummarySpec(box=False), "keep the box", "sketch_bits=None")
    refused(lambda: new_cache(spec=SummarySpec(box="yes")), "`spec.box` is 'yes'", "True or False")
    refused(lambda: SummarySpec(sketch_bits=4.0), "sketch_bits is 4.0", "(1, 2, 4, 6, 8), or None")


SINGLE = BLOCK.astype(np.float32)
APPENDED = {
    "dtype": ((SINGLE, SINGLE), {}, "`keys` is float32", ".astype('float64')"),
    "integers": ((BLOCK.astype(int),) * 2, {}, "`keys` is int64", ".astype('float32')"),
    "complex": ((BLOCK, BLOCK + 1j), {}, "`values` is complex128", ".astype('float32')"),
    "text": (("a", BLOCK), {}, "`keys` is <U1", "floating-point"),
    "shapes": ((BLOCK, BLOCK[:, :, :2]), {}, "float64[2, 2, 2, 8]", "must have one shape"),
    "batch": ((BLOCK[:1],) * 2, {}, "(1, 2, 6, 8)", "a token (2, 2, 8) or a block (2, 2, T, 8)"),
    "heads": ((BLOCK[:, :1],) * 2, {}, "(2, 1, 6, 8)", "a block (2, 2, T, 8)"),
    "head size": ((BLOCK[..., :4],) * 2, {}, "(2, 2, 6, 4)", "a block (2, 2, T, 8)"),
    "rank": ((BLOCK[0, 0],) * 2, {}, "(6, 8)", "a token (2, 2, 8)"),
    "nothing": ((BLOCK[:, :, :0],) * 2, {}, "(2, 2, 0, 8)", "a block (2, 2, T, 8)"),
    "nan key": ((with_one(BLOCK, (1, 0, 2, 3), NAN), BLOCK), {}, "keys[1, 0, 2, 3] is nan", "mask"),
    "nan value": ((BLOCK, with_one(BLOCK, (0, 1, 5, 0), NAN)), {}, "values[0, 1, 5, 0] is nan"),
    "count": ((BLOCK,) * 2, {"counts": [1, 7]}, "`counts[1]` is 7", "expected 0 to 6"),
    "negative": ((BLOCK,) * 2, {"counts": [-1, 7]}, "`counts[0]` is -1", "expected 0 to 6"),
    "huge": ((BLOCK,) * 2, {"counts": [2**40, 7]}, "`counts[0]` is 1099511627776", "0 to 6"),
    "counts": ((BLOCK,) * 2, {"counts": 3}, "`counts` is int64[]", "integers of shape (2,)"),
    "fractions": ((BLOCK,) * 2, {"counts": [1.5, 1]}, "float64[2]", "integers of shape (2,)"),
    "words": ((BLOCK,) * 2, {"counts": "ab"}, "`counts` is <U2[]", "integers of shape (2,)"),
}


@pytest.mark.parametrize("case", APPENDED.values(), ids=APPENDED.keys())
def test_appending(case):
    arrays, more, *texts = case
    refused(lambda: new_cache().append(*arrays, **more), *texts)


FILLED = {
    "few pages": ({"pages": 3}, "`pages` is 3", "fill 10 pages of 4", "pages=10 or more"),
    "short rows": (
        {"pages_per_sequence": 2}, "`pages_per_sequence` is 2", "sequence 0 has 20",
        "pages_per_sequence=5 or more",
    ),
    "pages": ({"pages": -1}, "`pages` is -1", "positive integer"),
    "page size": ({"page_size": 0}, "`page_size` is 0", "positive integer"),
    "page size text": ({"page_size": "4"}, "`page_size` is '4'", "positive integer"),
    "lengths": ({"lengths": [21, 1]}, "`lengths[0]` is 21", "expected 0 to 20"),
    "rank": ({"keys": KEYS[0], "values": KEYS[0]}, "(2, 20, 8)", "expected (B, Hkv, T, D)"),
    "empty": ({"keys": KEYS[:, :, :0], "values": KEYS[:, :, :0]}, "(2, 2, 0, 8)", "Use `create`"),
    "nan": ({"keys": KEYS * NAN}, "keys[0, 0, 0, 0] is nan", "Remove these rows or mask"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILLED.values(), ids=FILLED.keys())
def test_filling(case):
    changed, *texts = case
    given = {"keys": KEYS, "values": KEYS, "page_size": PAGE, **changed}
    refused(lambda: PagedKV.from_tokens(**given), *texts)


UNUSED = with_one(POOL, (0, 5, 2, 0), NAN)
ADOPTED = {
    "page": (
        {"page_table": with_one(TABLE, (1, 1), 6)},
        "`page_table[1, 1]` is 6",
        "0 to 5",
        "fork",
    ),
    "negative": ({"page_table": with_one(TABLE, (0, 0), -1)}, "`page_table[0, 0]` is -1", "0 to 5"),
    "huge": ({"page_table": with_one(TABLE, (0, 2), 2**40)}, "is 1099511627776", "0 to 5"),
    "fractions": ({"page_table": TABLE + 0.5}, "`page_table` is float64[2, 3]", "shape (B, P)"),
    "table rank": ({"page_table": TABLE[0]}, "`page_table` is int64[3]", "shape (B, P)"),
    "ragged": ({"page_table": [[0, 1], [2]]}, "`page_table` is not a rectangular"),
    "length": ({"lengths": [13, 5]}, "`lengths[0]` is 13", "0 to 12", "Widen the table"),
    "negative length": ({"lengths": [1, -5]}, "`lengths[1]` is -5", "0 to 12"),
    "lengths": ({"lengths": [1]}, "`lengths` is int64[1]", "shape (2,)"),
    "rank": ({"keys": POOL[0], "values": POOL[0]}, "(6, 4, 8)", "pools (Hkv, N, S, D)"),
    "nan": ({"values": UNUSED}, "values[0, 5, 2, 0] is nan", "set them to zero"),
    "spec": ({"spec": 3}, "`spec` is 3", "a SummarySpec is expected"),
}


@pytest.mark.parametrize("case", ADOPTED.values(), ids=ADOPTED.keys())
def test_adopting_pages(case):
    changed, *texts = case
    given = {"keys": POOL, "values": POOL, "page_table": TABLE, "lengths": LENGTHS, **changed}
    refused(lambda: PagedKV.from_pages(**given), *texts)


def test_adopting_pages_under_jit():
    adopt = jax.jit(lambda pool: PagedKV.from_pages(pool, pool, TABLE, LENGTHS))
    refused(lambda: adopt(POOL), "cannot be traced", "outside jit")


SEQUENCES = {
    "free": (("free", 2), {}, "`sequence` is 2", "0 to 1"),
    "free negative": (("free", -1), {}, "`sequence` is -1", "0 to 1"),
    "free fraction": (("free", 1.0), {}, "`sequence` is 1.0", "one integer"),
    "free text": (("free", "a"), {}, "`sequence` is 'a'", "one integer"),
    "free several": (("free", np.array([0, 1])), {}, "array([0, 1])", "one integer"),
    "free bool": (("free", True), {}, "`sequence` is True", "one integer"),
    "fork itself": (("fork", 1, 1), {}, "both 1", "fork into another one"),
    "fork source": (("fork", 3, 1), {}, "`source` is 3", "0 to 1"),
    "fork target": (("fork", 0, 5), {}, "`target` is 5", "0 to 1"),
    "fork length": (("fork", 0, 1), {"length": 21}, "`length` is 21", "has 20 tokens"),
    "fork negative": (("fork", 0, 1), {"length": -1}, "`length` is -1", "has 20 tokens"),
    "fork fraction": (("fork", 0, 1), {"length": 1.5}, "`length` is 1.5", "one integer"),
}


@pytest.mark.parametrize("case", SEQUENCES.values(), ids=SEQUENCES.keys())
def test_sequences(case):
    (method, *places), more, *texts = case
    refused(lambda: getattr(filled_cache(), method)(*places, **more), *texts)


DENSE_CASES = {
    "rank": ({"query": QUERY[0]}, "(4, 8)", "expected query (B, H, D)"),
    "heads": ({"query": QUERY[:, :3]}, "3 query heads cannot share 2", "equally"),
    "no heads": ({"query": QUERY[:, :0]}, "(2, 0, 8)", "at least 1"),
    "integers": ({"keys": KEYS.astype(int)}, "`keys` is int64", ".astype('float32')"),
    "lengths": ({"lengths": [21, 1]}, "`lengths[0]` is 21", "expected 0 to 20"),
    "fractions": ({"lengths": [1.5, 1]}, "`lengths` is float64[2]", "integers of shape (2,)"),
    "scale": ({"scale": -1.0}, "scale is -1.0", "positive"),
}


@pytest.mark.parametrize("case", DENSE_CASES.values(), ids=DENSE_CASES.keys())
def test_contiguous_dense_attention(case):
    changed, *texts = case
    given = {"query": QUERY, "keys": KEYS, "values": KEYS, **changed}
    refused(lambda: dense_attention(**given), *texts)


def test_float64_without_x64():
    with jax.enable_x64(False):
        remedy = "jax.config.update('jax_enable_x64', True)"
        refused(lambda: new_cache(dtype="float64"), "float64 was asked for", remedy)
        spec = SummarySpec(dtype="float64")
        refused(lambda: new_cache(dtype="float32", spec=spec), "float64 was asked for", remedy)
        cache = new_cache(dtype="float32")
        asked = functools.partial(vashista_attention, cache=cache, policy=DENSE)
        refused(lambda: asked(QUERY), "`query` is float64", remedy, "query.astype('float32')")
        refused(lambda: cache.append(BLOCK, BLOCK), "`keys` is float64", remedy)
        refused(lambda: PagedKV.from_tokens(KEYS, KEYS), "`keys` is float64", remedy)
        refused(lambda: PagedKV.from_pages(POOL, POOL, TABLE, LENGTHS), "`keys` is float64", remedy)
        refused(lambda: dense_attention(QUERY, KEYS, KEYS), "`query` is float64", remedy)
