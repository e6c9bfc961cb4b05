"""The portable back end, which refuses nothing."""

from tests.attention.kernels.conformance import Conformance


class TestXla(Conformance):
    implementation = "xla"
