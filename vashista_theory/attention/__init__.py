"""The mechanism: a paged KV cache, routing, certificates and sparse attention that knows itself."""

from vashista_theory.attention.bounds.summaries import SummarySpec as SummarySpec
from vashista_theory.attention.cache.checks import PoolFullError as PoolFullError
from vashista_theory.attention.cache.paged import PagedKV as PagedKV
from vashista_theory.attention.cache.sharded import ShardedKV as ShardedKV
from vashista_theory.attention.calibrate import calibrate as calibrate
from vashista_theory.attention.decode import vashista_attention as vashista_attention
from vashista_theory.attention.dense import dense_attention as dense_attention
from vashista_theory.attention.info import DecodeInfo as DecodeInfo
from vashista_theory.attention.policy import Policy as Policy
