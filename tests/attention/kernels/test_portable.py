"""The portable back end, which refuses nothing."""

from tests.attention.kernels.together import Together


class TestXla(Together):
    implementation = "xla"
