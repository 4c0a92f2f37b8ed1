"""Every dialog, played at the pure core: as it was written, and in pieces."""

from __future__ import annotations

import pytest
from smtp.dialog import CorePlayer, Dialog, dialogs

ALL = list(dialogs())


@pytest.mark.parametrize("cut", [0, 1, 2, 7], ids=["whole", "octets", "pairs", "sevens"])
@pytest.mark.parametrize("dialog", ALL, ids=[dialog.name for dialog in ALL])
def test_dialog(dialog: Dialog, cut: int) -> None:
    CorePlayer(dialog, cut).play()


def test_titles_are_unique() -> None:
    names = [dialog.name for dialog in ALL]
    assert len(names) == len(set(names))
