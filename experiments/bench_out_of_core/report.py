"""What `bench_out_of_core` says of its runs."""

from collections.abc import Mapping
from typing import Any

from experiments.bench_out_of_core.measure import LARGE, LATENCY, NETWORK, WARM_TIMES
from experiments.framework.outcome import Measured, Outcome, sentences

_TIME_AIM, _MEMORY_AIM = 20 * 60.0, 1.5 * 2**30
_RUNS = {
    "cache": "cold: read from disk; warm: in the page cache",
    "workers": "threads",
    "seconds": "the projection, compilation aside",
    "passes": "rows priced over n",
    "solves": "projections on the working set",
    "peak_mib": "largest RssAnon of the process, MiB",
    "before_mib": "RssAnon before the projection, MiB",
    "predicted": "seconds by the model of `scaling`, from the warm run of one worker",
}
_PASSES = {
    "cache": "as above",
    "workers": "threads",
    "pass": "number",
    "share": "part of the keys it priced",
    "seconds": "time",
    "rate_gbs": "10⁹ bytes of keys a second",
    "solving": "seconds of it on working sets",
    "improvements": "how often the point moved",
}
_SCALING = {
    "n": "keys",
    "workers": "each with a core, its share of the keys and a disk of its own",
    "passes": "measured on this file with as many exchanges a pass",
    "solves": "likewise",
    "pass_memory": "seconds of a pass, keys in memory",
    "pass_disk": "seconds of a pass, keys on disk",
    "total_memory": "seconds, keys in memory",
    "total_disk": "seconds, keys on disk",
}


def report(found: Measured) -> Outcome:
    """Aims met or missed, and what bounds a pass."""
    columns = {"runs": _RUNS, "passes": _PASSES, "scaling, on paper": _SCALING}
    return Outcome(
        tables=found.described(columns),
        values=found.values,
        findings=_findings(found.values, found.configuration),
        notes=sentences(
            f"""- Every run is a process of its own; a first call on 1,000 rows has compiled before.
            - Warm runs are the fastest of {WARM_TIMES}, cold runs the only one.
            - The disk is what a read of the dropped file sees: a virtual disk may cache as well.
            - Memory rates: threads that sum 256 MiB each.
            - The load average at the end is among the values: where it exceeds the cores, other
              work shared the machine and every time is too long.
            - Scaling to {LARGE:,} keys: passes and solves are those of this file cut so that a pass
              has as many exchanges as that many keys on that many workers would have (threads stand
              for workers); the rate is the warm one of one worker; an exchange takes
              {1e3 * LATENCY:.0f} ms and {NETWORK / 1e9:.0f} GB/s. Workers on other machines are on
              paper: `project_blocks` has threads.
            """
        ),
        failures=found.failures,
    )


def _findings(values: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    def verdict(value: float, aim: float) -> str:
        return "Met" if value < aim else f"Missed by {value / aim:.2f} times"

    slowest, peak = values["seconds_worst"], values["peak_mib_worst"]
    return sentences(
        f"""- Aim: ({asked["n"]:,}, {asked["d"]}) in under {_TIME_AIM / 60:.0f} minutes.
          {verdict(slowest, _TIME_AIM)}: slowest run {slowest:.1f} s.
        - Aim: peak anonymous memory under {_MEMORY_AIM / 2**30} GiB.
          {verdict(peak * 2**20, _MEMORY_AIM)}: {peak:.0f} MiB for a file of {values["file_gb"]:.2f}
          GB.
        - One worker prices {values["pass_gbs_1"]:.2f} GB/s of keys in the page cache; the disk
          gives {values["disk_gbs"]:.2f} GB/s, memory {values["memory_gbs_1"]:.1f} GB/s to one
          thread and {values["memory_gbs_2"]:.1f} to two.
        - Two workers are {values["speedup_2"]:.2f} times as fast as one, warm; the model says
          {values["predicted_over_measured_2"]:.2f} of the time measured.
        - A plain pass over the file finds the optimality conditions violated by
          {max(values["audit_dual"], values["audit_complementarity"]):.1e} of scale, and
          {values["audit_unlisted"]} keys nearer than the gap that the face does not list.
        """
    )
