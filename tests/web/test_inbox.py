"""The web inbox as its reader meets it: what arrives, what is shown, and what the keys do."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Callable
from threading import Thread

from browsing import Tab, fill, post
from playwright.sync_api import expect

from mailfarm.sdk import Farm


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
