"""What a stranger wrote, in the web inbox: it is shown, and it runs nothing and calls nobody."""

from __future__ import annotations

from browsing import PIXEL, Canary, Tab, post
from playwright.sync_api import expect

from mailfarm.sdk import Farm

OVERRIDE = "\u202e"


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
