"""The web inbox of a farm that asks for a token: signing in and out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from browsing import PIXEL, WORKING, Tab, post
from playwright.sync_api import expect
from running import Running

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
