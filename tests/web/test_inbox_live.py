"""The web inbox stays as the farm is: what others do, hints that were lost, a server that goes and comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from browsing import WORKING, Tab, fill, post
from playwright.sync_api import Page, Route, WebSocketRoute, expect
from running import Running

from mailfarm.sdk import Farm


def test_what_others_delete_and_read_goes_here_too(tab: Tab, farm: Farm) -> None:
    inbox = farm.create_mailbox()
    post(tab.running, inbox.address, "Gone")
    post(tab.running, inbox.address, "Read")
    gone, read = inbox.wait_for_all(2)
    page = tab.open(f"/#/messages/{gone.id}")
    expect(page.locator("#reader .subject")).to_have_text("Gone")
    expect(page.locator(".row[aria-selected=true]")).to_contain_text("Gone")
    tab.expected = "status of 404"  # it may be gone before it is marked as read
    gone.delete()
    expect(page.locator("#reader")).to_contain_text("not there any more")
    expect(page.locator(".row")).to_have_count(1)
    expect(page.locator(".row.new")).to_have_count(1)
    read.mark_seen()
    expect(page.locator(".row.new")).to_have_count(0)
    inbox.delete()
    expect(page.locator(f"#boxes a[data-id='{inbox.id}']")).to_have_count(0)
    expect(page.locator(".row", has_text="Read")).to_have_count(0)


def test_the_server_goes_and_comes_back(tabs: Callable[..., Tab], tmp_path: Path) -> None:
    first = Running(tmp_path)
    try:
        with Farm(first.url) as farm:
            inbox = farm.create_mailbox()
        post(first, inbox.address, "Before")
        tab = tabs(first)
        tab.expected = WORKING
        page = tab.open(f"/#/mailboxes/{inbox.id}")
        expect(tab.row("Before")).to_be_visible()
    finally:
        first.stop()
    expect(page.locator("#offline")).to_contain_text("No connection")
    expect(tab.row("Before")).to_be_visible()
    with Running(tmp_path, MAILFARM_API_LISTEN=f"127.0.0.1:{first.port('http')}") as second:
        post(second, inbox.address, "While away")
        expect(tab.row("While away")).to_be_visible(timeout=30_000)
        expect(page.locator("#offline")).to_be_hidden()
        post(second, inbox.address, "After")
        expect(tab.row("After")).to_be_visible()
        expect(page.locator(".row")).to_have_count(3)


class Wire:
    """Stands in the page's live connection: hears what the server says, and can say something in its place."""

    def __init__(self, page: Page) -> None:
        self.said: list[dict[str, Any]] = []
        self.loses: tuple[str, ...] = ()
        page.route_web_socket("**/v1/events", self._open)

    def _open(self, socket: WebSocketRoute) -> None:
        self.page_side = socket
        server = socket.connect_to_server()
        server.on_message(self._heard)

    def _heard(self, message: str | bytes) -> None:
        self.said.append(json.loads(message))
        if self.said[-1]["type"] not in self.loses:
            self.page_side.send(message)

    def say(self, **frame: Any) -> None:
        self.page_side.send(json.dumps(frame))


def test_frames_that_concern_no_open_mailbox(tabs: Callable[..., Tab]) -> None:
    with Running() as alone, Farm(alone.url) as farm:
        tab = tabs(alone)
        wire = Wire(tab.page)
        tab.open()
        for inbox in farm.mailboxes():
            inbox.delete()
        expect(tab.page.locator("#boxes .box")).to_have_count(0)
        wire.say(type="problem", problem="/v1/problems/too-many", title="Not that", status=429, op="watch")
        expect(tab.page.locator(".toast")).to_contain_text("Not that")
        wire.say(type="news-of-a-later-version")
        inbox = farm.create_mailbox()
        expect(tab.page.locator("#boxes .box")).to_have_count(1)
        tab.page.locator("#boxes a").click()
        wire.say(type="problem", problem="/v1/problems/too-many", title="Nor that", status=429, op="watch")
        post(alone, inbox.address, "Still live")
        expect(tab.row("Still live")).to_be_visible()


def test_hints_that_were_lost_are_made_up_for_when_the_server_says_so(tabs: Callable[..., Tab]) -> None:
    with Running() as alone, Farm(alone.url) as farm:
        tab = tabs(alone)
        wire = Wire(tab.page)
        old = farm.create_mailbox()
        tab.open()
        expect(tab.page.locator(f"#boxes a[data-id='{old.id}']")).to_be_visible()
        wire.loses = ("mailbox-opened", "mailbox-closed", "mailbox")
        new = farm.create_mailbox()
        old.delete()
        expect(tab.page.locator(f"#boxes a[data-id='{new.id}']")).to_have_count(0)
        wire.loses = ()
        wire.say(type="watching")
        expect(tab.page.locator(f"#boxes a[data-id='{new.id}']")).to_be_visible()
        expect(tab.page.locator(f"#boxes a[data-id='{old.id}']")).to_have_count(0)


def test_a_message_that_was_gone_before_it_was_told(tab: Tab, farm: Farm) -> None:
    inbox = farm.create_mailbox()
    wire = Wire(tab.page)
    page = tab.open(f"/#/mailboxes/{inbox.id}")
    expect(page.locator("#empty")).to_contain_text("Nothing here yet")
    for seq, more in ((1, {"message": None}), (2, {"gone": True}), (3, {"gone": True, "message": None})):
        wire.say(type="filed", mailbox=inbox.id, seq=seq, at="2026-01-31T12:00:00Z", **more)
    wire.say(type="deleted", mailbox=inbox.id, seq=4, at="2026-01-31T12:00:00Z", messages=["x"])
    for number in range(5):
        post(tab.running, inbox.address, f"Mail {number}")
    expect(tab.row("Mail 4")).to_be_visible()


def test_what_is_deleted_while_a_page_is_on_its_way_does_not_stay(tab: Tab, farm: Farm) -> None:
    inbox = farm.create_mailbox()
    fill(tab.running, inbox.address, range(150))
    mails = inbox.wait_for_all(150, timeout=30)
    wire = Wire(tab.page)
    held: list[Route] = []
    tab.page.route("**/messages?*before=*", lambda route: held.append(route))
    page = tab.open(f"/#/mailboxes/{inbox.id}")
    page.locator("#list").evaluate("list => list.scrollTop = 1e6")
    while not held:
        page.wait_for_timeout(10)
    shown = held[0].fetch()  # the server has answered, the page has not heard it yet
    mails[20].delete()
    while not any(frame["type"] == "deleted" for frame in wire.said):
        page.wait_for_timeout(10)
    page.wait_for_timeout(50)
    held[0].fulfill(response=shown)
    page.locator("#list").evaluate("list => list.scrollTop = 1e6")
    expect(tab.row("Mail 0")).to_be_visible()
    expect(page.locator(".row").last).to_have_attribute("aria-setsize", "149")
    page.locator("#list").evaluate("list => list.scrollTop -= 20 * 84")
    expect(tab.row("Mail 19")).to_be_visible()
    expect(tab.row("Mail 20")).to_have_count(0)
