"""What a run was: enough to repeat it, and to doubt it."""

import dataclasses
import datetime as dt
import importlib.metadata
import json
import platform
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any, cast

import jax

from vashista_theory._reading import json_object
from vashista_theory._version import __version__
from vashista_theory.runs.configuration import Json, canonical

_PACKAGES = ("jax", "jaxlib", "equinox", "numpy", "scipy", "xarray", "zarr")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The circumstances of one run.

    Attributes:
        configuration: What was asked for, in JSON's types.
        seed: Of the random instances; None if nothing was drawn.
        versions: By package, Python included; "not installed" where it is not.
        device: JAX's platform and kind of device.
        cpu: The processor's model: results are equal bit for bit on one type only.
        precision: "float64" or "float32".
        commit: Of this project's checkout; None when installed from elsewhere.
        dirty: Whether source files differed from that commit; None without a commit.
        started: ISO 8601, in UTC.
        duration: In seconds; None while running.
    """

    configuration: Json
    seed: int | None
    versions: dict[str, str]
    device: str
    cpu: str
    precision: str
    commit: str | None
    dirty: bool | None
    started: str
    duration: float | None = None
    _clock: float = dataclasses.field(default=0.0, repr=False, compare=False)

    @classmethod
    def start(
        cls, configuration: object, *, seed: int | None = None, precision: str | None = None
    ) -> "Manifest":
        """Record the circumstances now.

        Args:
            configuration: Anything `canonical` takes.
            seed: Of the random instances.
            precision: By default the type JAX gives to a Python float here.
        """
        root = checkout_root()
        device = cast("Any", jax).devices()[0]
        return cls(
            configuration=canonical(configuration),
            seed=seed,
            versions=package_versions(),
            device=f"{device.platform} ({device.device_kind})",
            cpu=cpu_model(),
            precision=precision or str(jax.dtypes.canonicalize_dtype(float)),
            commit=_git(root, "rev-parse", "HEAD") if root else None,
            dirty=_is_dirty(root) if root else None,
            started=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            _clock=time.perf_counter(),
        )

    def finish(self) -> "Manifest":
        """The same manifest with its duration, counted from `start`, in seconds."""
        return dataclasses.replace(self, duration=time.perf_counter() - self._clock)

    def as_dict(self) -> dict[str, Json]:
        """In JSON's types."""
        fields = cast("dict[str, Json]", canonical(self))
        return {name: value for name, value in fields.items() if not name.startswith("_")}

    def to_json(self) -> str:
        """As indented JSON text."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Read what `to_json` wrote.

        Raises:
            ValueError: It is something else; the message says what is missing or not known.
        """
        given = json_object(text, "the manifest")
        known = {field.name for field in dataclasses.fields(cls) if not field.name.startswith("_")}
        if given.keys() != known:
            raise ValueError(
                f"the manifest lacks {sorted(known - given.keys())} and has "
                f"{sorted(given.keys() - known)}, which are not known; expected {sorted(known)}"
            )
        return cls(**given)

    def attributes(self) -> dict[str, str | int | float]:
        """Flat attributes for a dataset: nested values as JSON text, absent ones left out."""
        flat: dict[str, str | int | float] = {}
        for name, value in self.as_dict().items():
            if value is None:
                continue
            if isinstance(value, bool):
                flat[name] = str(value).lower()  # netCDF attributes have no booleans
            elif isinstance(value, (str, int, float)):
                flat[name] = value
            else:
                flat[name] = json.dumps(value, allow_nan=False)
        return flat


def package_versions(packages: tuple[str, ...] = _PACKAGES) -> dict[str, str]:
    """Installed versions by package name, with Python's own."""
    versions = {"python": platform.python_version(), "vashista-theory": __version__}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def cpu_model() -> str:
    """The processor's model name, or its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def checkout_root() -> Path | None:
    """The root of this project's own git checkout, if the package is imported from it.

    A copy installed into an environment that happens to lie inside somebody's repository must
    not report that repository's commit.
    """
    root = Path(__file__).resolve().parents[2]
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return None
    if project.get("name") != "vashista-theory" or not (root / ".git").exists():
        return None
    tracked = _git(root, "ls-files", "--", "vashista_theory/__init__.py")
    return root if tracked else None


def _is_dirty(root: Path) -> bool | None:
    # Results are written by the run itself, so only sources count.
    sources = ("vashista_theory", "experiments", ":!experiments/results")
    changed = _git(root, "status", "--porcelain", "--", *sources)
    return None if changed is None else bool(changed)


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
