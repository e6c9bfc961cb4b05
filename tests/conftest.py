"""Strict settings for every test, in force before the package is first imported."""

import os

import hypothesis
import jax
import jaxtyping
from hypothesis.database import DirectoryBasedExampleDatabase

# Every call is checked against its annotated shapes and types. Users do not pay for this: the
# hook lives here, not in the package.
jaxtyping.install_import_hook("vashista_theory", "beartype.beartype")

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

# No deadline: the first example of a shape pays for its compilation.
hypothesis.settings.register_profile(
    "default", max_examples=25, deadline=None, derandomize=True, database=None
)
# A long run looks for new examples each time, and prints how to reproduce a failure. Remembering
# failures helps at a desk; CI starts from a fresh clone.
hypothesis.settings.register_profile(
    "full",
    max_examples=400,
    deadline=None,
    print_blob=True,
    database=None if "CI" in os.environ else DirectoryBasedExampleDatabase(".hypothesis/examples"),
)
hypothesis.settings.load_profile(os.environ.get("VASHISTA_PROFILE", "default"))
