"""How a long computation is recorded, stored in blocks, resumed and watched.

Knows nothing of what is computed: `sweep` and `evaluation` stand on it.
"""

from vashista_theory.runs.configuration import (
    canonical as canonical,
)
from vashista_theory.runs.configuration import (
    differences as differences,
)
from vashista_theory.runs.configuration import (
    fingerprint as fingerprint,
)
from vashista_theory.runs.files import check_writable as check_writable
from vashista_theory.runs.files import write_atomically as write_atomically
from vashista_theory.runs.manifest import Manifest as Manifest
from vashista_theory.runs.progress import Progress as Progress
from vashista_theory.runs.runner import run_blocks as run_blocks
from vashista_theory.runs.store import BlockStore as BlockStore
from vashista_theory.runs.store import Fault as Fault
from vashista_theory.runs.store import load_dataset as load_dataset
from vashista_theory.runs.store import open_store as open_store
