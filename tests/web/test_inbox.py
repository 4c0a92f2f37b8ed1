"""The web inbox as its reader meets it: what arrives, what is shown, what is never loaded, and what the keys do."""

from __future__ import annotations

import json
import re
import smtplib
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from browsing import PIXEL, Canary, Tab, fill, post
from playwright.sync_api import Page, Route, WebSocketRoute, expect
from running import Running

from mailfarm.sdk import Farm

OVERRIDE = "\u202e"
WORKING = "error: .*ERR_CONNECTION|error: .*WebSocket|error: .*Failed to load resource"


def test_a_mail_appears_without_reload(tab: Tab, farm: Farm) -> None:
    inbox = farm.create_mailbox()
    page = tab.open(f"/#/mailboxes/{inbox.id}")
    expect(page.locator("#empty")).to_contain_text("Nothing here yet")
    expect(page.locator("#empty")).to_contain_text(inbox.address)
    page.evaluate("window.sameDocument = true")
    post(tab.running, inbox.address, "Live one")
    expect(tab.row("Live one")).to_be_visible()
    expect(page.locator("#empty")).to_be_hidden()
    expect(page.locator("#say")).to_contain_text("New message from Ada Lovelace: Live one")
    expect(page.locator(".box.current .count")).to_have_text("1")
    expect(page).to_have_title("(1) mailfarm")
    tab.select("Live one")
    expect(page.locator(".box.current .count")).to_be_hidden()  # opening marks it seen
    expect(page.locator(".row.new")).to_have_count(0)
    assert page.evaluate("window.sameDocument")


def test_the_empty_state_names_the_real_port(tab: Tab, farm: Farm) -> None:
    where = f"127.0.0.1:{tab.running.port('smtp', 'capture')}"
    page = tab.open(f"/#/mailboxes/{farm.create_mailbox().id}")
    expect(page.locator("#empty")).to_contain_text(f"swaks --server {where} --to ")
    other = farm.create_mailbox()
    page.locator(f"#boxes a[data-id='{other.id}']").click()
    expect(page.locator("#empty")).to_contain_text(f"--to {other.address}")


def test_html_mail_runs_nothing_and_calls_nobody(tab: Tab, farm: Farm, canary: Canary) -> None:
    inbox = farm.create_mailbox()
    evil = f"""<html><head><meta http-equiv="refresh" content="0;url={canary.url}/refresh">
        <link rel="stylesheet" href="{canary.url}/link.css"><base href="{canary.url}/">
        <style>@import "{canary.url}/import.css"; p {{ background: url({canary.url}/css.png) }}
        @font-face {{ font-family: x; src: url({canary.url}/font) }} p {{ font-family: x }}</style></head>
        <body onload="top.hacked = 1" background="{canary.url}/body.png"><p>Visible words</p>
        <script>top.hacked = 1; fetch("{canary.url}/script")</script>
        <img id="own" src="cid:logo@x"> <img src="{canary.url}/remote.png">
        <img src="x" onerror="top.hacked = 1"><iframe src="{canary.url}/frame"></iframe>
        <video src="{canary.url}/video" poster="{canary.url}/poster"></video>
        <object data="{canary.url}/object"></object>
        <form action="{canary.url}/form"><button>Go</button></form>
        <p style="background: \\75rl({canary.url}/escaped.png)">More</p>
        <a href="{canary.url}/a" ping="{canary.url}/ping">link</a>"""
    post(tab.running, inbox.address, "Evil", html=evil, pictures={"logo@x": PIXEL})
    page = tab.open(f"/#/mailboxes/{inbox.id}")
    tab.select("Evil")
    frame = page.frame_locator("iframe")
    expect(frame.locator("body")).to_contain_text("Visible words")
    own = frame.locator("#own")
    expect(own).to_have_js_property("naturalWidth", 1)
    expect(frame.locator("script, iframe, form, object, video, base, link")).to_have_count(0)
    assert page.locator("iframe").get_attribute("sandbox") == ""
    assert tab.complaints == []  # nothing was left for the browser's own walls to stop
    tab.expected = "frame is sandboxed|made in a sandboxed frame|Loading the font"
    frame.locator("a").click()
    page.locator("#tab-text").click()
    page.locator("#tab-links").click()
    expect(page.locator("#panel")).to_contain_text(f"{canary.url}/a")
    assert canary.calls == []
    assert not page.evaluate("window.hacked")
    assert len(tab.context.pages) == 1

    page.locator("#tab-html").click()
    page.locator("#load-images").click()
    expect(page.frame_locator("iframe").locator("img[src$='remote.png']")).to_have_js_property("naturalWidth", 1)
    assert "/remote.png" in canary.calls
    assert not {"/refresh", "/script", "/frame", "/video", "/form", "/import.css", "/font"} & set(canary.calls)
    assert not page.evaluate("window.hacked")


def test_what_a_stranger_wrote_is_text(tab: Tab, farm: Farm) -> None:
    inbox = farm.create_mailbox()
    evil = f"<img src=x onerror=alert(1)> {OVERRIDE}gpj.exe"
    post(
        tab.running,
        inbox.address,
        evil,
        text=f"<script>alert(2)</script>{OVERRIDE}",
        sender=f'"<b>Eve</b> {OVERRIDE}" <eve@x.example>',
        files={f"<i>bill</i>{OVERRIDE}fdp.exe": b"x"},
    )
    page = tab.open(f"/#/mailboxes/{inbox.id}")
    page.on("dialog", lambda dialog: tab.complaints.append(f"a dialog: {dialog.message}"))
    row = tab.row("<img src=x onerror=alert(1)>")
    expect(row).to_contain_text("<b>Eve</b>")
    row.click()
    expect(page.locator(".subject")).to_contain_text("<img src=x onerror=alert(1)>")
    page.locator("#tab-text").click()
    expect(page.locator("#panel")).to_contain_text("<script>alert(2)</script>")
    page.locator("#tab-files").click()
    expect(page.locator("#panel li")).to_have_count(1)
    assert OVERRIDE not in page.locator("body").inner_text()
    for view in ("headers", "raw"):
        page.locator(f"#tab-{view}").click()
        expect(page.locator("#panel")).to_contain_text("ubject")
    assert page.locator("#reader img, #reader script, #list img, #reader i i").count() == 0


def test_every_view_of_a_message(tab: Tab, farm: Farm) -> None:
    inbox = farm.create_mailbox()
    post(
        tab.running,
        inbox.address,
        "Sign in",
        text="Your code is 481516.\nhttps://shop.example/in?t=abc\n",
        html='<p>Your code is <b>481516</b>. <a href="https://shop.example/in?t=abc">Sign in here</a></p>',
        files={"notes.bin": b"\x00\x01\xff"},
    )
    page = tab.open(f"/#/mailboxes/{inbox.id}")
    tab.select("Sign in")
    expect(page.locator("[role=tab][aria-selected=true]")).to_have_text("HTML")
    expect(page.frame_locator("iframe").locator("b")).to_have_text("481516")
    width = page.locator("iframe").bounding_box()
    page.get_by_role("button", name="Phone").click()
    narrow = page.locator("iframe").bounding_box()
    assert width
    assert narrow
    assert narrow["width"] <= 390 < width["width"]
    page.locator("#tab-text").click()
    expect(page.locator("#panel")).to_contain_text("Your code is 481516.")
    page.keyboard.press("ArrowRight")
    expect(page.locator("[role=tab][aria-selected=true]")).to_contain_text("Links & codes")
    expect(page.locator("#panel .codes code")).to_have_text("481516")
    expect(page.locator("#panel .links a")).to_have_attribute("href", "https://shop.example/in?t=abc")
    page.locator("#tab-files").click()
    expect(page.locator("#panel li")).to_contain_text("notes.bin")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download", exact=True).click()
    assert download.value.suggested_filename == "notes.bin"
    assert download.value.path().read_bytes() == b"\x00\x01\xff"
    page.locator("#tab-headers").click()
    expect(page.locator("#panel")).to_contain_text("<bounce@analytical.example>")
    expect(page.locator("#panel")).to_contain_text("MIME-Version")
    page.locator("#tab-raw").click()
    expect(page.locator("#panel pre")).to_contain_text("Content-Transfer-Encoding")


def test_a_code_is_copied(tab: Tab, farm: Farm) -> None:
    inbox = farm.create_mailbox()
    post(tab.running, inbox.address, "Code", text="Your verification code is 739204.\n")
    page = tab.open(f"/#/mailboxes/{inbox.id}")
    tab.select("Code")
    page.locator("#copy-code").click()
    expect(page.locator("#copy-code")).to_have_class(re.compile("done"))
    assert page.evaluate("navigator.clipboard.readText()") == "739204"
    page.locator("#copy-address").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).includes('@')")
    assert page.evaluate("navigator.clipboard.readText()") == inbox.address


def test_the_filter_asks_the_server_and_stays_live(tab: Tab, farm: Farm) -> None:
    inbox = farm.create_mailbox()
    for subject, text in (("Apples", "red"), ("Pears", "green"), ("Plums", "blue")):
        post(tab.running, inbox.address, subject, text=f"{text}\n")
    page = tab.open(f"/#/mailboxes/{inbox.id}")
    expect(page.locator(".row")).to_have_count(3)
    page.keyboard.press("/")
    page.keyboard.type("green")
    expect(page.locator(".row")).to_have_count(1)
    expect(tab.row("Pears")).to_be_visible()
    page.locator("#filter").fill('subject:"plum" from:ada')
    expect(tab.row("Plums")).to_be_visible()
    expect(page.locator(".row")).to_have_count(1)
    post(tab.running, inbox.address, "Cherries")
    post(tab.running, inbox.address, "More plums")
    expect(tab.row("More plums")).to_be_visible()
    expect(page.locator(".row")).to_have_count(2)
    page.locator("#filter").fill("nothing like it")
    expect(page.locator("#empty")).to_contain_text("No message matches")
    page.keyboard.press("Escape")
    expect(page.locator(".row")).to_have_count(5)


def test_deleting_one_and_all(tab: Tab, farm: Farm) -> None:
    inbox = farm.create_mailbox()
    for number in range(4):
        post(tab.running, inbox.address, f"Number {number}")
    page = tab.open(f"/#/mailboxes/{inbox.id}")
    tab.select("Number 2")
    page.locator("#remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(page.locator(".row")).to_have_count(4)
    page.locator("#remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".row")).to_have_count(3)
    expect(page.locator("#reader .subject")).to_have_text("Number 1")  # the next one
    tab.expected = "status of 404"  # what is being opened may be gone before it is read
    page.locator("#clear").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete all").click()
    expect(page.locator("#empty")).to_contain_text("Nothing here yet")
    expect(page.locator(".row")).to_have_count(0)
    assert inbox.messages() == []


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


def test_a_mailbox_is_made_and_deleted(tab: Tab, farm: Farm) -> None:
    page = tab.open()
    page.locator("#create").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Address").fill("no address")
    dialog.get_by_role("button", name="Create").click()
    expect(dialog.get_by_role("alert")).not_to_be_empty()
    dialog.get_by_label("Address").fill("")
    dialog.get_by_role("button", name="Create").click()
    expect(page.get_by_role("dialog")).to_contain_text("SMTP password")
    address, user, password = page.get_by_role("dialog").locator("code").all_inner_texts()
    page.get_by_role("button", name="Done").click()
    expect(page.locator("#list-top h2")).to_have_text(address)
    with smtplib.SMTP("127.0.0.1", tab.running.port("smtp", "capture")) as smtp:
        smtp.sendmail("a@x.example", [address], b"Subject: To the new one\r\n\r\nx\r\n")
    expect(tab.row("To the new one")).to_be_visible()
    assert user
    assert len(password) >= 20
    box = page.locator(".box.current")
    box.hover()
    box.get_by_role("button", name="Delete mailbox").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete mailbox").click()
    expect(page.locator("#boxes", has_text=address)).to_have_count(0)
    expect(page.locator("#list-top h2")).not_to_have_text(address)
    tab.expected = "status of 400"  # the first try


def test_the_keys(tab: Tab, farm: Farm) -> None:
    inbox = farm.create_mailbox()
    for number in range(3):
        post(tab.running, inbox.address, f"Key {number}")
    page = tab.open(f"/#/mailboxes/{inbox.id}")
    expect(page.locator(".row")).to_have_count(3)
    chosen = page.locator(".row[aria-selected=true]")
    page.keyboard.press("j")
    expect(chosen).to_contain_text("Key 2")
    page.keyboard.press("j")
    expect(chosen).to_contain_text("Key 1")
    page.keyboard.press("k")
    expect(chosen).to_contain_text("Key 2")
    expect(page.locator(".row.new")).to_have_count(3)  # choosing is not reading
    page.keyboard.press("Enter")
    expect(page.locator("#reader .subject")).to_have_text("Key 2")
    page.keyboard.press("j")
    expect(page.locator("#reader .subject")).to_have_text("Key 1")
    expect(page.locator(".row.new")).to_have_count(1)
    page.keyboard.press("u")
    expect(page.locator(".row.new")).to_have_count(2)
    page.keyboard.press("Delete")
    page.keyboard.press("Enter")  # the dialog's own button has the focus
    expect(page.locator(".row")).to_have_count(2)
    expect(page.locator("#reader .subject")).to_have_text("Key 0")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("next, previous")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.locator("#reader")).to_contain_text("Choose a message")
    page.keyboard.press("/")
    expect(page.locator("#filter")).to_be_focused()


def test_light_and_dark(tabs: Callable[..., Tab]) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = tabs(color_scheme="dark")
    page = dark.open()
    night = page.evaluate(colour)
    page.locator("#theme").click()
    day = page.evaluate(colour)
    assert night != day
    page.reload()
    assert page.evaluate(colour) == day  # remembered
    assert tabs(color_scheme="light").open().evaluate(colour) == day


def test_on_a_phone_one_pane_at_a_time(tabs: Callable[..., Tab], farm: Farm) -> None:
    inbox = farm.create_mailbox()
    tab = tabs(viewport={"width": 390, "height": 780})
    post(tab.running, inbox.address, "Small", html="<p>Hello</p>")
    page = tab.open()
    expect(page.locator("#list")).to_be_hidden()
    page.locator(f"#boxes a[data-id='{inbox.id}']").click()
    expect(page.locator("#boxes")).to_be_hidden()
    tab.select("Small")
    expect(page.locator("#list")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Back to the list").click()
    expect(page.locator("#list")).to_be_visible()
    page.get_by_role("button", name="Back to the mailboxes").click()
    expect(page.locator("#boxes")).to_be_visible()


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


def test_ten_thousand_messages_are_few_elements(tab: Tab, farm: Farm) -> None:
    inbox = farm.create_mailbox()
    senders = [
        Thread(target=fill, args=(tab.running, inbox.address, range(n, n + 2500))) for n in range(0, 10_000, 2500)
    ]
    for sender in senders:
        sender.start()
    page = tab.open(f"/#/mailboxes/{inbox.id}")  # they come while we watch
    for sender in senders:
        sender.join()
    expect(page.locator("#list-top")).to_contain_text("10,000 messages", timeout=60_000)
    assert page.locator("*").count() < 1500
    page.reload()
    expect(page.locator(".row").first).to_be_visible()
    for _ in range(8):
        page.locator("#list").evaluate("list => { list.scrollTop = list.scrollHeight }")
        page.wait_for_timeout(50)
    page.wait_for_function("document.getElementById('rows').offsetHeight > 84 * 400")
    assert page.locator("*").count() < 1500
    top = page.locator("#list").evaluate("list => list.scrollTop")
    post(tab.running, inbox.address, "On top of them all")
    expect(page.locator("#fresh")).to_have_text(re.compile("1 new"))
    assert page.locator("#list").evaluate("list => list.scrollTop") >= top  # what is read stays where it is
    page.locator("#fresh").click()
    expect(tab.row("On top of them all")).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("subject:9999")
    expect(page.locator(".row")).to_have_count(1)


def test_a_wrong_address_in_the_bar_is_explained(tab: Tab) -> None:
    page = tab.open("/#/mailboxes/00000000000000000000000000")
    expect(page.locator(".toast")).to_contain_text("There is no such mailbox")
    expect(page.locator("#list-top h2")).not_to_be_empty()
    page.goto(tab.running.url + "/#/messages/00000000000000000000000000")
    expect(page.locator("#reader")).to_contain_text("not there any more")
    tab.expected = "status of 404"


TOKEN = "a-token-that-is-long-enough"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Running]:
    """One that asks for a token."""
    with Running(MAILFARM_API_AUTH="token", MAILFARM_API_FIRST_TOKEN=TOKEN) as process:
        yield process


def test_a_server_that_wants_a_token_asks_for_it_once(tabs: Callable[..., Tab], guarded: Running) -> None:
    for path in ("/", "/#/messages/01kf7w2m9xq4t6z8b0c2d4e6f8"):
        tab = tabs(guarded)
        tab.expected = WORKING
        tab.page.goto(guarded.url + path)
        expect(tab.page.locator("main.locked")).to_have_count(1)
        expect(tab.page.locator("main.locked h1")).to_have_text("Sign in to mailfarm")
        expect(tab.page.locator("#token")).to_be_focused()
        expect(tab.page.locator("main.panes:visible, #offline:visible")).to_have_count(0)
        expect(tab.page.locator("#state.up")).to_have_count(0)
        tab.page.keyboard.press("n")
        expect(tab.page.locator(".toast, dialog[open]")).to_have_count(0)


def test_signing_in_shows_the_inbox_live_and_signing_out_hides_it(tabs: Callable[..., Tab], guarded: Running) -> None:
    tab = tabs(guarded)
    tab.expected = WORKING
    page = tab.page
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.on("websocket", lambda socket: addresses.append(socket.url))
    page.goto(guarded.url + "/")
    page.fill("#token", "mf_wrong")
    page.keyboard.press("Enter")
    expect(page.locator(".locked .bad")).to_have_text("That token is unknown or has ended.")
    expect(page.locator("#token")).to_have_value("")
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#state.up")).to_have_count(1)
    expect(page.locator("main.locked")).to_have_count(0)
    # it is live, and shows the pictures of a mail
    html = '<p>Seen</p><img src="cid:p">'
    post(guarded, "inbox@mailfarm.test", "With a session", html=html, pictures={"p": PIXEL})
    tab.select("With a session")
    image = page.frame_locator("iframe").locator("img")
    expect(image).to_have_count(1)
    assert image.evaluate("one => one.complete && one.naturalWidth") == 1
    # changing something, and staying signed in
    page.click("#create")
    page.locator("dialog[open] .primary").click()
    expect(page.locator("#boxes li")).to_have_count(2)
    page.reload()
    expect(page.locator("#state.up")).to_have_count(1)
    # no script sees the cookie, nothing keeps the token, and it was in no address
    assert page.evaluate("document.cookie") == ""
    assert TOKEN not in page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert not [address for address in addresses if TOKEN in address]
    assert any(address.startswith("ws:") for address in addresses)
    (cookie,) = tab.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    page.click("#sign-out")
    expect(page.locator("#token")).to_be_focused()
    assert tab.context.cookies() == []


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


def test_the_default_mailbox_has_no_bin(tab: Tab, farm: Farm) -> None:
    other = farm.create_mailbox()
    default = next(inbox for inbox in farm.mailboxes() if inbox.address.startswith("inbox@"))
    page = tab.open()
    expect(page.locator(f".box[data-id='{other.id}'] .tools button")).to_have_count(2)
    page.locator(f".box[data-id='{default.id}']").hover()
    bins = page.locator(f".box[data-id='{default.id}'] .tools").get_by_role("button", name="Delete mailbox")
    expect(bins).to_have_count(0)
    page.locator(f".box[data-id='{other.id}']").hover()
    expect(page.get_by_role("button", name=f"Delete mailbox {other.address}")).to_be_visible()


def test_the_brand_keeps_its_line(tabs: Callable[..., Tab]) -> None:
    for width in (1360, 1100, 900, 390):
        page = tabs(viewport={"width": width, "height": 800}).open()
        name, dot = page.locator(".brand h1").bounding_box(), page.locator("#state").bounding_box()
        assert name is not None
        assert dot is not None
        assert name["height"] < 30
        assert (dot["width"], dot["height"]) == (8, 8)
        assert page.locator(".brand").evaluate("brand => brand.scrollWidth <= brand.clientWidth")
