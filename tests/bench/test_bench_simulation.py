"""The simulated farm: nothing is lost in it, and where theory knows the answer it gives the same."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from xml.etree.ElementTree import fromstring

import pytest
import simulate
from capacity import Unmeasured, measured, need
from report import RESULTS
from simulation import Costs, Farm, Shape
from timeline import Panel, timeline

COSTS = Costs(mx=0.0002, queue=0.00005, inbound=0.0003, database=0.0001, sync=0.0004)


def test_every_message_is_somewhere() -> None:
    farm = Farm(Shape(mx=3, workers=3, sessions=50, waiting=500), COSTS, lambda at: 20_000.0 if 2 < at < 4 else 1000.0)
    farm.lose(1, 5.0, 9.0)
    seconds = farm.run(200)
    arrived, accepted, filed = (
        sum(getattr(each, name) for each in seconds) for name in ("arrived", "accepted", "filed")
    )
    assert sum(each.refused for each in seconds) > 0
    assert sum(each.cut for each in seconds) > 0
    assert filed <= accepted <= arrived
    under_way = arrived - accepted - farm.outside
    assert 0 <= under_way < 1500  # on the wire, or waiting for a time-out
    assert farm.inside() < 1000  # the peak has drained


def test_after_the_last_message_all_are_filed() -> None:
    farm = Farm(Shape(), COSTS, lambda at: 2000.0 if at < 5 else 0.0)
    seconds = farm.run(30)
    assert sum(each.arrived for each in seconds) == sum(each.filed for each in seconds) > 8000
    assert farm.inside() == 0


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_server_waits_as_long_as_pollaczek_and_khinchine_say(load: float) -> None:
    """M/D/1: a mean wait of service × load / 2(1 - load)."""
    service = 0.001
    costs = Costs(mx=service, queue=0.0, inbound=0.0, database=0.0, sync=0.0)
    farm = Farm(Shape(mx=1, sessions=10**6), costs, lambda at: load / service)
    answers = [each for second in farm.run(120) for each in second.answers]
    assert fmean(answers) == pytest.approx(service * (1 + load / (2 * (1 - load))), rel=0.06)


def test_no_more_is_accepted_than_one_core_can() -> None:
    farm = Farm(Shape(mx=1, again=1.0), COSTS, lambda at: 20_000.0)
    seconds = farm.run(6)
    assert fmean(each.accepted for each in seconds[1:5]) == pytest.approx(1 / COSTS.mx, rel=0.05)


def test_accepting_goes_on_without_the_database() -> None:
    farm = Farm(Shape(), COSTS, lambda at: 500.0)
    farm.lose(2, 3.0, 8.0)
    seconds = farm.run(20)
    assert all(each.accepted > 100 for each in seconds[:19])
    assert seconds[6].filed == 0
    assert seconds[7].waiting > 1000
    assert farm.inside() < 100


def test_the_page_has_the_tables_of_the_results() -> None:
    """bench/simulate.py writes both; a page changed by hand, or results without it, would say something else."""
    figures = measured(RESULTS)
    page = simulate.DOC.read_text("utf-8")
    blocks = {"costs": simulate.costs_table(figures), "needs": simulate.needs_table(figures)}
    assert simulate.fill(simulate.DOC, blocks) == page


def test_a_figure_that_was_not_measured_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unmeasured, match=r"bench/results/cluster.json.*make bench-cluster"):
        measured(tmp_path)


def test_twice_the_mail_needs_twice_the_cores() -> None:
    figures = measured(RESULTS)
    small, large = need(1e8, figures), need(2e8, figures)
    assert large.mx == pytest.approx(2 * small.mx, abs=1)
    assert large.kept == 2 * small.kept
    assert need(1000, figures).mx == need(1000, figures).shards == 2


def test_a_picture_of_what_happened() -> None:
    panels = [Panel("mail", "a second", [("sent", [1.0, 3.0]), ("accepted", [1.0, None])])]
    picture = timeline("a <day>", panels, [(0, 1, "dark")])
    root = fromstring(picture)
    assert (
        root.attrib["aria-label"] == "a <day>. mail: sent at most 3.00 a second; mail: accepted at most 1.00 a second"
    )
    assert len(root.findall("{*}path[@class='a']")) == 1
