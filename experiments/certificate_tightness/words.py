"""What the columns of `certificate_tightness` hold, and how it was measured."""

from collections.abc import Mapping
from typing import Any

from experiments.certificate_tightness.alarms import FALSE_ALARMS
from experiments.framework.outcome import sentences
from experiments.shared.page_masses import PAGE

COLUMNS = {
    "pages": {
        "tolerance": "dropped mass allowed",
        "judged_by": "summary; best possible: the masses themselves",
        "earlier": "median in the earlier measurement",
        "median": "pages read by Policy.certified",
        "ratio": "median over the earlier one",
        "free": "median if neither the first page nor the last is always read",
        "mean": "pages",
        "p90": "pages, 90th percentile",
        "median_all": "pages, all positions",
        "mean_all": "pages, all positions",
        "p90_all": "pages, all positions",
    },
    "groups": {
        "tolerance": "dropped mass allowed, to every head of the group",
        "judged_by": "summary; best possible: the masses themselves, in the library's order",
        "median": "pages read for a group, last position",
        "mean": "pages",
        "p90": "pages, 90th percentile",
        "median_all": "pages, all positions",
        "mean_all": "pages, all positions",
        "p90_all": "pages, all positions",
        "over_one": "mean over all positions, over that of heads that read alone",
    },
    "routers": {
        "router": "what pages are ranked by; best possible: their masses",
        "bytes": "that it reads of a page of one kv head",
        "kept_": "mass kept by so many pages, mean",
        "was_": "the same in the earlier measurement",
        "tenth_": "mass kept by so many pages, 10th percentile",
        "was_tenth": "the same in the earlier measurement",
        "loss": "largest difference of the means from the best possible",
    },
}
_GRID = {
    "grid": (
        "where the points lie: between the corners of the box of the page (as in the library), in "
        "the middle of equal cells of it, between corners that are themselves coded on the "
        "superpage's box, between the corners of the superpage or of the whole context"
    ),
    "bits": "a dimension",
}
RANKING_COLUMNS = {
    **_GRID,
    "bytes": "of codes and grid, a page of one kv head",
    "kept_": "mass kept by so many best pages, mean",
    "tenth_": "the same, 10th percentile",
    "loss": "largest difference of the means from the best possible",
}
PROOF_COLUMNS = {
    **_GRID,
    "token_": "pages to prove this tolerance in per cent, an error for each key as in the library, "
    "median",
    "mean_": "the same, mean",
    "page_": "median with one error a page, that of its worst key",
    "traffic_": "bytes of the summaries and of that reading, over dense bytes",
}
ALARM_COLUMNS = {
    "pages": "that are read",
    "tolerance": "dropped mass allowed",
    "judged_by": "summary",
    "safe": "share of answers whose true dropped mass is within the tolerance",
    "false_alarms": "not certified although safe, over the safe",
    "missed": "certified although not safe: number of answers",
    "fell_back": "share of answers that otherwise='dense' reads densely",
    "est_false": "safe, but the estimate (no proof) says not, over the safe",
    "est_missed": "not safe, but the estimate says it is, over the unsafe",
}
AREA_COLUMNS = {
    "pages": "that are read",
    "above": "what is predicted: that it lies above this",
    "judged_by": "summary",
    "bad": "share of answers for which it does",
    "gap": "area, the smaller the gap the worse",
    "bound": "area of the bound on the dropped mass",
    "estimate": "area of the estimate of the dropped mass",
    "lower": "area of the lower bound on the dropped mass",
}
CURVE_COLUMNS = {
    "pages": "that are read",
    "above": "threshold of what is predicted",
    "judged_by": "summary",
    "predicts": "true dropped mass, or relative output error ‖sparse − dense‖ / ‖dense‖",
    "predictor": "gap (the smaller the worse), bound, estimate or lower bound of the dropped mass",
    "bad": "share of answers above the threshold",
    "area": "under the curve",
    **{f"at_{x:g}": f"share of them found at a false-alarm rate of {x:g}" for x in FALSE_ALARMS},
}


def notes(of: Mapping[str, Any], *, earlier: bool) -> list[str]:
    said = sentences(
        f"""- {of["layers"]} layers, {of["kv_heads"] * of["group"]} heads on {of["kv_heads"]} kv
          heads, {of["positions"]} positions of up to {of["longest"]} tokens, pages of {PAGE}; read
          in float64. Without another word a number is over all heads at the last position; `_all`
          is over all positions.
        - But for the table of groups every query head has a kv head of its own (a copy), and
          chooses its pages alone; the library chooses them for a group together.
        - `Policy.certified` always reads the first page and the last. The column `free` is the same
          policy with sink=0, recent=0.
        - Alarms and ROC: a fixed number of pages with otherwise='keep', over all heads and
          positions (the positions of a head are close to each other). The output error is over the
          length of the dense output. fell_back: the same budget with otherwise='dense'.
        - Bytes of a router: what the mechanism reports to have read of a page's summaries in
          bfloat16; a sketch with its box and an error for each key.
        - The tables of grids are a study in numpy, not the mechanism: no page is forced; bytes are
          codes and grid; `traffic` adds 2 bytes for the error of each key and the pages read in
          bfloat16, over the bytes of dense reading.
        """
    )
    if earlier:
        said.append(
            "`earlier` and `was_` are a measurement of the same heads that was made before the "
            "library was designed: numpy, float64, heads alone, no page forced, an error for each "
            "key."
        )
    return said
