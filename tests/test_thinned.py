"""Thinning leaves no case out: what is not run every time is slow."""

from tests.thinned import diagonal, spread


def kept(cases: list) -> list:
    return [case.values for case in cases if not case.marks]


def test_a_spread_has_both_what_comes_first_and_what_comes_late() -> None:
    cases = spread(range(10), 4)
    assert [case.values for case in cases] == [(i,) for i in range(10)]
    assert kept(cases) == [(0,), (2,), (5,), (7,)]
    assert len(kept(spread("ab", 5))) == 2


def test_a_diagonal_meets_every_row_and_every_column() -> None:
    cases = diagonal("abcd", range(6), 3)
    assert len(cases) == 24
    assert len(kept(cases)) == 8
    assert {row for row, _ in kept(cases)} == set("abcd")
    assert {column for _, column in kept(cases)} == set(range(6))
