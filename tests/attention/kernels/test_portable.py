"""The portable back end, which refuses nothing."""

from tests.attention.kernels.conformance import Together


class TestXla(Together):
    implementation = "xla"
