"""The sanitiser: what mails look like, what attackers send, what hypothesis thinks of, and what costs time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailfarm.mailboxes import html
from mailfarm.mailboxes.css import without_fetches
from mailfarm.mailboxes.markup import MAX_DEPTH, MAX_TAGS, tidy

PIXEL = "data:image/png;base64,iVBORw0KGgo="
DANGEROUS = {
    *("script", "iframe", "frame", "frameset", "object", "embed", "applet", "form", "input", "button", "textarea"),
    *("select", "base", "link", "svg", "math", "template", "noscript", "video", "audio", "source", "track", "portal"),
    *("picture", "canvas", "xmp", "plaintext", "noembed", "noframes", "title", "animate", "set", "foreignobject"),
}
NEVER = ("on", "xlink", "xmlns", "form", "srcdoc", "srcset", "ping", "action", "poster", "data")
LINKS = re.compile(r"(?:https?://|mailto:|tel:|sms:|#)", re.IGNORECASE)


class Reading(HTMLParser):
    """Another parser's view of a document: every start tag with its attributes, and the style sheets."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.styles: list[str] = []
        self.words: list[str] = []
        self._in_style = False
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        (self.styles if self._in_style else self.words).append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def show(source: str, remote: bool = False) -> Reading:
    return Reading(html.sanitise(source, remote=remote, cid={"logo": PIXEL, "a b": PIXEL}.get))


def wrongs(document: str, remote: bool) -> Iterator[str]:
    """What of a sanitised document could run, load or lead astray."""
    read = Reading(document)
    metas = read.all("meta")
    if metas != [{"charset": "utf-8"}, {"name": "referrer", "content": "no-referrer"}]:
        yield f"meta {metas}"
    for tag, attributes in read.tags:
        if tag in DANGEROUS:
            yield f"<{tag}>"
        for name, value in attributes.items():
            if name.startswith(NEVER) and (tag, name) != ("html", "data-blocked"):
                yield f"{tag} {name}"
            if name in ("src", "background"):
                fine = value.startswith("data:image/") or (remote and re.match("https?://", value))
                if not fine or "svg" in value[:24]:
                    yield f"{tag} {name}={value[:60]}"
            if name == "href" and not LINKS.match(value):
                yield f"href={value[:60]}"
            if name == "style":
                yield from css_wrongs(value, remote)
        if tag == "a" and (attributes.get("target") != "_blank" or "noopener" not in attributes.get("rel", "")):
            yield f"a {attributes}"
    for style in read.styles:
        if "</" in style:  # in an attribute it is text
            yield f"tag in style: {style[:60]}"
        yield from css_wrongs(style, remote)


def css_wrongs(css: str, remote: bool) -> Iterator[str]:
    for target in re.findall(r"url\s*\(\s*['\"]?([^'\")]*)", css, re.IGNORECASE):
        if not (target.startswith("data:image/") or (remote and re.match("https?://", target))):
            yield f"url({target[:60]})"
    if re.search(r"@\s*import|image-set\(|expression\(|-moz-binding|behavior\s*:", css, re.IGNORECASE):
        yield f"css {css[:60]}"


def test_a_newsletter_keeps_its_looks() -> None:
    read = show(
        """<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" "x.dtd">
        <html xmlns:v="urn:schemas-microsoft-com:vml"><head><meta http-equiv="refresh" content="0;url=http://x.test">
        <title>Not shown</title><!--[if mso]><style>td{color:red}</style><![endif]-->
        <style type="text/css">@media (max-width:600px){.w{width:100%!important}} .a > .b{color:#333}</style></head>
        <body bgcolor="#f4f2fb" style="margin:0" onload="x()">
        <table width="600" cellpadding="0" bgcolor="#ffffff" align=center><tr><td class="w" style="font:16px Arial">
        <p>Dear reader &amp; friend,&nbsp;<b>hello</b> &lt;you&gt;
        <font color="#ff0000" face=Arial>red</font>
        <a href="https://shop.test/?a=1&copy=2&amp;b=3">Look</a>
        <img src="cid:logo" width=10 alt="Logo"><img src="cid:a%20b"><img src="cid:unknown">
        </td></tr></table></body></html>"""
    )
    assert read.all("table")[0] | {"width": "600", "bgcolor": "#ffffff", "align": "center"} == read.all("table")[0]
    assert read.all("td")[0] == {"class": "w", "style": "font:16px Arial"}
    assert read.all("body")[0] == {"bgcolor": "#f4f2fb", "style": "margin:0"}
    assert [image.get("src") for image in read.all("img")] == [PIXEL, PIXEL, None]
    assert "@media (max-width:600px){.w{width:100%!important}} .a > .b{color:#333}" in read.styles
    assert not any("color:red" in style for style in read.styles)  # a conditional comment
    words = " ".join("".join(read.words).split())
    assert words == "Dear reader & friend, hello <you> red Look"
    link = read.all("a")[0]
    assert link["href"] == "https://shop.test/?a=1&copy=2&b=3"
    assert link["rel"] == "noopener noreferrer nofollow"
    assert link["target"] == "_blank"


def test_remote_pictures_come_only_when_asked_for() -> None:
    source = (
        '<img src="https://t.test/p.gif?u=1&amp;v=2"><img src=//t.test/q.gif><table background=http://t.test/b.png>'
        "<tr><td style='background-image: url( &quot;http://t.test/c.png&quot; )'>x</table>"
        "<style>p{background:URL(http://t.test/d.png) no-repeat}</style>"
    )
    assert "t.test" not in html.sanitise(source, remote=False, cid=lambda name: None)
    assert show(source).all("html")[0] == {"data-blocked": "5"}
    read = show(source, remote=True)
    assert [image["src"] for image in read.all("img")] == ["https://t.test/p.gif?u=1&v=2", "https://t.test/q.gif"]
    assert read.all("table")[0]["background"] == "http://t.test/b.png"
    assert read.all("td")[0]["style"] == 'background-image: url("http://t.test/c.png")'
    assert 'p{background:url("http://t.test/d.png") no-repeat}' in read.styles
    assert read.all("html")[0] == {"data-blocked": "0"}


def test_our_own_server_is_no_source_of_pictures() -> None:
    source = "<img src=/v1/mailboxes><img src='v1/x'><img src='?a'><p style='background:url(/v1/mailboxes)'>"
    for remote in (False, True):
        assert "v1" not in html.sanitise(source, remote=remote, cid=lambda name: None)


XSS = [
    "<script>alert(1)</script>",
    "<SCRIPT SRC=http://x.test/x.js></SCRIPT>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "<img src=x onerror=alert(1)>",
    "<img/src='x'/onerror=alert(1)>",
    "<img src=`x` onerror=alert(1)>",
    "<img src='x' \x0conerror=alert(1)>",
    '<a title="<b>" onclick=alert(1) href="javascript:alert(1)">x</a>',
    "<a href=' \x01javascript:alert(1)'>x</a>",
    "<a href='java\tscript:alert(1)'>x</a>",
    "<a href='&#106;avascript:alert(1)'>x</a>",
    "<a href='&#x6A;avascript&colon;alert(1)'>x</a>",
    "<a href='data:text/html,<script>alert(1)</script>'>x</a>",
    "<a href='vbscript:x'>x</a><a href='file:///etc/passwd'>x</a><a href='blob:x'>x</a>",
    "<map><area href=javascript:alert(1)></map>",
    "<iframe src=javascript:alert(1)></iframe><iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<object data=javascript:alert(1)></object><embed src=x><applet code=x></applet>",
    "<form action=http://x.test><input type=submit formaction=javascript:alert(1)><button>x</button></form>",
    "<base href=http://x.test/><link rel=stylesheet href=http://x.test/x.css>",
    "<meta http-equiv=refresh content='0;url=http://x.test'><meta http-equiv=Set-Cookie content=a=b>",
    "<svg onload=alert(1)><script>alert(1)</script></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x></svg>",
    "<svg><a xlink:href='javascript:alert(1)'><text>x</text></a></svg>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "<svg></p><style><a id='</style><img src=1 onerror=alert(1)>'>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'></noscript>",
    "<template><script>alert(1)</script></template>",
    "<style><img src=x onerror=alert(1)></style>",
    "<style>@import 'http://x.test/x.css'; @IMPORT url(http://x.test/y.css)</style>",
    "<style>@\\69mport 'http://x.test/x.css'; a{b:u\\72l(http://x.test/y)}</style>",
    "<style>a{b:url('http://x.test/a\\'b')} a{b:ur/**/l(http://x.test)} a{b:url(http://x.test/'\")}</style>",
    "<style>a{background:-webkit-image-set('http://x.test/a' 1x)} a{b:image-set(url(//x.test/a) 1x)}</style>",
    "<style></sty</style>le><img src=x onerror=alert(1)></style>",
    "<style><!--</style><script>alert(1)</script>--></style>",
    "<p style='background:url(javascript:alert(1))'>x<p style='width:expression(alert(1))'>x",
    "<p style='-moz-binding:url(http://x.test/x.xml#x);behavior:url(x.htc)'>x",
    "<p style=\"background:url('data:image/svg+xml,<svg onload=alert(1)>')\">x",
    "<img src='data:image/svg+xml;base64,PHN2Zz4='><img src='data:text/html,x'>",
    "<img srcset='http://x.test/a 2x' lowsrc=http://x.test/b dynsrc=http://x.test/c longdesc=http://x.test/d>",
    "<video src=http://x.test/a poster=http://x.test/b><source src=http://x.test/c></video><audio src=x>",
    "<a href=http://x.test ping=http://y.test target=_top rel=opener>x</a>",
    "<body background=javascript:alert(1) onload=alert(1) style='background:url(http://x.test)'>",
    "<body title='x></body><script>alert(1)</script>'>",
    '<body class="a>b" class=\'"><script>alert(1)</script>\'>',
    "<!--><script>alert(1)</script>--><!--[if gte IE 4]><script>alert(1)</script><![endif]-->",
    "<![CDATA[<script>alert(1)</script>]]><?xml <script>alert(1)</script>?>",
    "<plaintext><script>alert(1)</script>",
    "<xmp><script>alert(1)</script></xmp><textarea></textarea><script>alert(1)</script>",
    "<title><img src=x onerror=alert(1)></title><select><script>alert(1)</script></select>",
    "<table><tr><script>alert(1)</script><td><form><math><mi><script>alert(1)</script>",
    "<p\x00 onclick=alert(1)><scr\x00ipt>alert(1)</scr\x00ipt>",
    "\ufdd1script>alert(1)\ufdd1/script>\ufdd0lt;script>",
    "&lt;script&gt;alert(1)&lt;/script&gt;<p title='&lt;script&gt;&quot;&gt;'>",
    "<div id=x name=y><a name=location id=cookie><img name=getElementById>",
    "<x-foo onclick=alert(1)><portal src=http://x.test></portal><marquee onstart=alert(1)>x</marquee>",
]


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("attack", XSS)
def test_attacks_leave_nothing_that_runs_or_loads(attack: str, remote: bool) -> None:
    for source in (attack, f"<html><body><table><td>{attack}", f"<style>{attack}", f"<p title='{attack}", attack * 3):
        document = html.sanitise(source, remote=remote, cid=lambda name: PIXEL)
        assert list(wrongs(document, remote)) == []
        again = html.sanitise(document, remote=remote, cid=lambda name: PIXEL)
        assert list(wrongs(again, remote)) == []


def test_the_judge_of_these_tests_sees_what_is_wrong() -> None:
    head = '<html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
    harmless = [attack for attack in XSS if not list(wrongs(head + attack, False))]
    assert len(harmless) < 12  # those that only another parser falls for


PIECES = st.sampled_from(
    [
        *("<p>", "</p>", "<b>", "</b>", "<a href=", "</a>", "<table>", "<tr>", "<td>", "</table>", "<div ", "</div>"),
        *("<style>", "</style>", "<script>", "</script>", "<svg>", "</svg>", "<math>", "<title>", "</title>", "<img "),
        *(
            "src=",
            "style=",
            "onerror=",
            "href=",
            "javascript:alert(1)",
            "cid:logo",
            "http://x.test/a",
            "data:image/png,",
        ),
        *("url(", ")", "@import ", "'", '"', ">", "<", "/", "=", " ", "&", ";", "&lt;", "&#x3c;", "&quot;", "\\", "*/"),
        *(
            "<!--",
            "-->",
            "<![CDATA[",
            "]]>",
            "<?",
            "\0",
            "\ufdd0",
            "\ufdd1",
            "`",
            "\n",
            "<body ",
            "<form>",
            "<template>",
        ),
        *("<noscript>", "</noscript>", "<iframe>", "<textarea>", "<xmp>", "<plaintext>", "<select>", "<base ", "<x:y "),
    ]
)
SOUP = st.lists(st.one_of(PIECES, PIECES, st.text(max_size=5)), max_size=40).map("".join)


@given(SOUP, st.booleans())
@example("<div style=</p>", False)
def test_no_soup_of_tags_comes_out_dangerous(soup: str, remote: bool) -> None:
    document = html.sanitise(soup, remote=remote, cid=lambda name: PIXEL)
    assert list(wrongs(document, remote)) == []


@given(SOUP)
def test_tidied_markup_is_nested_and_bounded(soup: str) -> None:
    tags = {"p", "b", "a", "table", "tr", "td", "div", "img", "style"}
    tidied = tidy(soup, tags=tags, attributes={"href", "src", "style"}, hidden={"script", "svg"})
    open_ = 0
    for close, _ in re.findall(r"<(/?)([a-z]+)", re.sub(r"<img[^>]*>", "", tidied)):
        open_ += -1 if close else 1
        assert 0 <= open_ <= MAX_DEPTH
    assert open_ == 0


@given(st.text())
def test_text_is_shown_as_it_is(text: str) -> None:
    clean = "".join(c for c in text if c not in "\0\r\ufdd0\ufdd1")
    escaped = clean.replace("&", "&amp;").replace("<", "&lt;")
    assert "".join(Reading(html.sanitise(escaped, remote=False, cid=lambda name: None)).words) == clean


@given(st.text(alphabet="url(')\"\\ @import/*;{}:htp.x-\n\0", max_size=60))
def test_css_without_fetches_fetches_nothing(css: str) -> None:
    assert list(css_wrongs(without_fetches(css, lambda url: None), False)) == []


def test_only_the_beginning_of_a_long_text_is_shown() -> None:
    document = html.sanitise("x" * (html.LIMIT + 5_000), remote=False, cid=lambda name: None)
    assert document.count("x") < html.LIMIT + 100


def test_one_picture_a_thousand_times_is_no_bomb() -> None:
    asked = []

    def cid(name: str) -> str:
        asked.append(name)
        return "data:image/png;base64," + "A" * 1_000_000

    document = html.sanitise("<img src=cid:a>" * 1000, remote=False, cid=cid)
    assert asked == ["a"]
    assert len(document) < html.INLINE_LIMIT + 100_000


@pytest.mark.parametrize(
    "answer", ["javascript:alert(1)", "http://x.test/", "data:text/html,x", "data:image/svg+xml,x"]
)
def test_what_stands_for_a_cid_must_be_a_picture(answer: str) -> None:
    assert "src" not in show("<img src=cid:x>").all("img")[0]
    document = html.sanitise("<img src=cid:x><p style='background:url(cid:x)'>", remote=True, cid=lambda name: answer)
    assert answer not in document


EXPENSIVE = {
    "nested": "<div>",
    "formatting": "<b>",
    "lists": "<ul><li>",
    "tables": "<table><td>",
    "links": "<a><b>",
    "misnested": "<b><p>",
    "unclosed in cells": "<b><table><td></b></td></table>",
    "ampersands": "&",
    "references": "&am",
    "quotes": '<a b="',
    "comments": "<!--",
    "hidden": "<svg>",
    "less-than": "<",
    "rows": "<tr>x",
    "misnested deep": "<b><div><div><div><div></b></div></div></div></div>",
    "spaces": "<p" + " " * 50,
}


@pytest.mark.parametrize("unit", EXPENSIVE.values(), ids=EXPENSIVE.keys())
def test_expensive_html_costs_in_proportion_to_its_length(unit: str) -> None:
    # no clock decides: what is quadratic takes many minutes at this length
    document = html.sanitise(unit * (html.LIMIT // len(unit)), remote=False, cid=lambda name: None)
    assert len(Reading(document).tags) < 4 * MAX_TAGS


@pytest.mark.parametrize("unit", ["url(", "url('", "url( (", "\\", "/*", "url('x' ", "-a", "@import "])
def test_expensive_css_costs_in_proportion_to_its_length(unit: str) -> None:
    css = without_fetches(unit * (html.LIMIT // len(unit)), lambda url: None)
    assert list(css_wrongs(css, False)) == []


def test_the_policy_is_a_sandbox_without_permissions() -> None:
    directives = dict(part.strip().partition(" ")[::2] for part in html.policy(False).split(";"))
    assert directives["sandbox"] == ""
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data:"
    assert directives["style-src"] == "'unsafe-inline'"
    assert "script-src" not in directives
    assert html.policy(True) == html.policy(False).replace("img-src data:", "img-src data: https: http:")
