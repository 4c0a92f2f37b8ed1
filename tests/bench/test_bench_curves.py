"""Curves that can be drawn and read, whatever they show."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from curves import Panel, curves
from growth import HEAD, compared

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("steep", [False, True])
@pytest.mark.parametrize("values", [(903.0, 27.5, 28.1), (1.0, 1.0, 1.0)])
def test_every_point_is_in_the_picture_and_says_its_value(values: tuple[float, ...], steep: bool) -> None:
    panel = Panel("CPU & more", "µs", (0, 1_000, 100_000), ("0", "1,000", "100,000"), [("", values)], steep)
    picture = ElementTree.fromstring(curves([panel, panel]))
    wide, high = (float(each) for each in picture.attrib["viewBox"].split()[2:])
    points = [(float(each.attrib["cx"]), float(each.attrib["cy"])) for each in picture.iter(f"{SVG}circle")]
    assert len(points) == 6
    assert all(0 < x < wide and 0 < y < high for x, y in points)
    assert not any(math.isnan(each) for point in points for each in point)
    assert points[0][0] < points[1][0] < points[2][0]
    if values[0] > values[1]:
        assert points[0][1] < points[2][1] < points[1][1], "more is higher"
    said = picture.attrib["aria-label"]
    assert re.search(r"CPU & more, µs: +0 (903|1\.00), 1,000", said)


def test_cost_is_compared_by_octet_among_large_mail_and_by_message_otherwise() -> None:
    def row(curve: str, micros: float, nanos: float) -> list[object]:
        made: list[object] = [None] * len(HEAD)
        made[0], made[HEAD.index("all µs")], made[HEAD.index("octet ns")] = curve, micros, nanos
        return made

    least = HEAD.index("× least")
    sizes = [row("size", 1_000, 900.0), row("size", 9_000, 36.0), row("size", 30_000, 24.0)]
    compared(sizes, (1_000, 256_000, 1_000_000))
    assert [made[least] for made in sizes] == [None, 1.5, 1.0]
    waiting = [row("waiting", 800.0, 1.0), row("waiting", 1_000.0, 1.0)]
    compared(waiting, (0, 1_000))
    assert [made[least] for made in waiting] == [1.0, 1.25]
