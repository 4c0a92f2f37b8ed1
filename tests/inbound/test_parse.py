"""Parsing: what a reader is shown of a message, the same whichever parser read it."""

from __future__ import annotations

import email.message
import email.policy
import random
import re

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailfarm.events import Person
from mailfarm.inbound import bounded, structure
from mailfarm.inbound.found import find
from mailfarm.inbound.links import links
from mailfarm.inbound.parse import NoPart, parse, part
from mailfarm.mail.envelope import Envelope, Recipient
from mailfarm.mailboxes.content import Link, dump, dump_detail, load_detail, load_head, load_parts
from mailfarm.mailboxes.visible import shown, visible
from mailfarm.ports import Origin


def mail(text="Hello text", html="<p>Hello <b>html</b></p>", attachments=(), **headers):
    message = email.message.EmailMessage(policy=email.policy.SMTP)
    message["From"] = "Jörg Müller <joerg@example.org>"
    message["To"] = "Ann <ann@mailfarm.test>, bob@mailfarm.test"
    message["Subject"] = "Grüße aus Köln"
    message["Date"] = "Mon, 02 Nov 2026 10:00:00 +0100"
    message["Message-ID"] = "<1@example.org>"
    for name, value in headers.items():
        message[name] = value
    message.set_content(text)
    if html is not None:
        message.add_alternative(html, subtype="html")
    for name, data in attachments:
        message.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
    return message.as_bytes()


def test_a_usual_message():
    parsed = parse(mail(attachments=[("büro.pdf", b"%PDF" * 100)], Cc="carol@example.org", Reply_To="x@y.test"))
    assert parsed.from_ == Person("Jörg Müller", "joerg@example.org")
    assert parsed.to == (Person("Ann", "ann@mailfarm.test"), Person("", "bob@mailfarm.test"))
    assert parsed.cc == (Person("", "carol@example.org"),)
    assert parsed.subject == "Grüße aus Köln"
    assert parsed.message_id == "1@example.org"
    assert parsed.head.date == 1793610000000000
    assert parsed.text.strip() == "Hello text"
    assert parsed.html.strip() == "<p>Hello <b>html</b></p>"
    assert parsed.visible == ""
    assert parsed.snippet == "Hello text"
    assert parsed.attachments == 1
    assert [(p.n, p.parent, p.content_type, p.filename, p.size, p.attachment) for p in parsed.parts] == [
        (1, None, "multipart/mixed", "", None, False),
        (2, 1, "multipart/alternative", "", None, False),
        (3, 2, "text/plain", "", 12, False),
        (4, 2, "text/html", "", 26, False),
        (5, 1, "application/octet-stream", "büro.pdf", 400, True),
    ]
    assert parsed.head.findings == ()
    assert parsed.head.parser == "fast"


def test_a_message_of_html_only_has_a_snippet_too():
    raw = b"Subject: s\r\nContent-Type: text/html\r\n\r\n<style>p{}</style><p>Hi&nbsp;there,</p><p>you &amp; me</p>"
    parsed = parse(raw)
    assert parsed.text == ""
    assert parsed.snippet == "Hi there, you & me"
    assert parsed.visible == "Hi there,\nyou & me"


def test_an_attached_message_is_an_attachment_and_nothing_of_it_is_ours():
    inner = mail(text="inner secret 123456 code", attachments=[("inner.pdf", b"x")])
    raw = (
        b"Subject: outer\r\nContent-Type: multipart/mixed; boundary=XX\r\n\r\n--XX\r\n\r\nouter\r\n--XX\r\n"
        b"Content-Type: message/rfc822\r\n\r\n" + inner + b"\r\n--XX--\r\n"
    )
    parsed = parse(raw)
    assert parsed.text == "outer"
    assert parsed.attachments == 1
    assert find(parsed.subject, parsed.text, parsed.html).codes == ()
    assert [p.filename for p in parsed.parts if p.filename] == ["inner.pdf"]


def test_a_picture_within_the_html_is_no_attachment():
    raw = (
        b"Content-Type: multipart/related; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n<img src=cid:a>\r\n"
        b"--b\r\nContent-Type: image/png; name=logo.png\r\nContent-ID: <a>\r\n\r\nxxx\r\n"
        b"--b\r\nContent-Type: image/png; name=photo.png\r\nContent-Disposition: attachment\r\n\r\nyyy\r\n--b--"
    )
    parsed = parse(raw)
    assert [(p.filename, p.content_id, p.attachment) for p in parsed.parts[2:]] == [
        ("logo.png", "a", False),
        ("photo.png", "", True),
    ]
    assert parsed.attachments == 1


def test_both_parsers_number_and_decode_alike():
    for raw in (mail(), mail(html=None), mail(attachments=[("a", b"\0\1\2" * 999), ("b.txt", b"text")]), CALENDAR):
        trees = [structure.fast(raw), structure.plain(raw)]
        seen = [
            [(n, parent, node.kind, node.body.whole()) for n, parent, node in structure.walk(tree.root)]
            for tree in trees
        ]
        assert seen[0] == seen[1]
        for n, _, kind, data in seen[0]:
            if data is None:
                for parser in ("fast", "plain"):
                    with pytest.raises(NoPart):
                        part(raw, n, parser)
            else:
                assert part(raw, n, "fast") == part(raw, n, "plain")
                assert part(raw, n, "fast")[::2] == (kind.content_type, data)


CALENDAR = (
    b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n boundary=\"a b\"\r\n\r\npreamble\r\n--a b\r\n"
    b"Content-Type: multipart/alternative; boundary=c\r\n\r\n--c\r\n\r\nplain\r\n--c  \r\n"
    b"Content-Type: text/calendar; method=REQUEST\r\nContent-Transfer-Encoding: BASE64\r\n\r\nQkVHSU4=\r\n--c--\r\n"
    b"--a b\r\nContent-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\nx\r\n--a b--\r\nepilogue"
)  # fmt: skip


@pytest.mark.parametrize("n", [0, -1, 7, 10**9])
def test_there_is_no_such_part(n):
    for parser in ("fast", "plain", "none"):
        with pytest.raises(NoPart):
            part(CALENDAR, n, parser)


def test_broken_base64_is_read_as_far_as_it_can_be_and_said_so():
    raw = b"Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\naGVsbG8gd29ybGQ!!!\r\n"
    parsed = parse(raw)
    assert parsed.text == "hello world"
    assert parsed.head.parser == "plain"
    assert parsed.head.findings
    assert part(raw, 1, parsed.head.parser)[2] == b"hello world"


def test_what_was_wrong_is_among_the_findings():
    raw = (
        b"not a field\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
        b"Content-Type: text/plain; charset=klingon\r\n\r\nnuqneH\r\n--b\r\n"
        b'Content-Type: a/b; name="..\\\\..\\\\x\xe2\x80\xaegpj.exe"\r\n\r\nx\r\n--b--'
    )
    parsed = parse(raw)
    assert parsed.text == "nuqneH"
    assert [p.filename for p in parsed.parts] == ["", "", "xgpj.exe"]
    findings = " ".join(parsed.head.findings)
    assert "1 header lines are no fields" in findings
    assert "klingon" in findings
    assert "is not safe" in findings
    assert "\u202e" not in findings


def test_head_and_parts_survive_the_database():
    parsed = parse(mail(attachments=[("a.txt", b"x")], text="code 123456 https://x.test/y"))
    assert load_head(dump(parsed.head)) == parsed.head
    assert load_parts(dump(parsed.parts)) == parsed.parts


def test_what_a_newer_version_has_added_to_the_detail_is_passed_over():
    parsed = parse(mail(attachments=[("a.txt", b"x")], **{"Reply-To": "Ann <ann@x.test>"}))
    envelope = Envelope("a@x.test", (Recipient("b@x.test"),))
    origin = Origin("mx", "192.0.2.1", 25, "client", "SMTP")
    raw = orjson.loads(dump_detail(envelope, origin, parsed))
    inner = [raw["envelope"], *raw["envelope"]["recipients"], raw["origin"], raw["head"], *raw["head"]["reply_to"]]
    for each in (raw, *inner, *raw["parts"]):
        each["added"] = [1]
    detail = load_detail(orjson.dumps(raw))
    assert (detail.envelope, detail.origin, detail.head, detail.parts) == (envelope, origin, parsed.head, parsed.parts)


def test_links_of_html_and_text():
    parsed = parse(
        mail(
            text="See https://x.test/a?b=1&c=2. (https://x.test/(paren)) and http://y.test/, bye",
            html='<a href="https://x.test/a?b=1&amp;c=2">Reset <b>now</b></a> <a href="javascript:alert(1)">no</a>'
            "<a href='mailto:a@x.test'>mail</a><a href=HTTPS://z.test/q>z</a> https://w.test/bare "
            '<a href="https://pic.test/"><img src=x alt="A picture"></a>',
        )
    )
    assert [(link.url, link.text) for link in find(parsed.subject, parsed.text, parsed.html).links] == [
        ("https://x.test/a?b=1&c=2", "Reset now"),
        ("HTTPS://z.test/q", "z"),
        ("https://pic.test/", "A picture"),
        ("https://x.test/(paren)", "https://x.test/(paren)"),
        ("http://y.test/", "http://y.test/"),
        ("https://w.test/bare", "https://w.test/bare"),
    ]


def test_a_link_shown_as_picture_and_words_keeps_the_words():
    assert links([Link("https://x.test", ""), Link("https://x.test", "Reset")], "") == (
        Link("https://x.test", "Reset"),
    )


@pytest.mark.parametrize(("html", "stored"), [("<p>x" * 100, ""), ("<p>x" * 1001, "x"), ("<p>x" + " " * 70_000, "x")])
def test_what_html_shows_beside_a_text_is_stored_where_it_is_not_easy_to_find(html, stored):
    assert parse(mail(html=html)).visible[:1] == stored


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("a<br>b<p>c</p>d", "a\nb\nc\nd"),
        ("<table><tr><td>1</td><td>2</td></tr></table>", "1 2"),
        ("a<!-- <p>hidden --> b", "a b"),
        ("<script>if (a < b) {}</script>x", "x"),
        ("<head><title>no</title></head><body>yes</body>", "yes"),
        ("<head><body>yes", "yes"),
        ("a &lt;b&gt; &amp; &eacute; &#8364;", "a <b> & é €"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("<p title='a>b'>x</p>", "x"),
        ("<a href=x'y>z</a>", "z"),
        ("<unclosed", ""),
        ("text<", "text<"),
        ("<!-- never closed", ""),
        ("soft\u00adhyphen zero\u200bwidth", "soft hyphen zero width"),
    ],
)
def test_visible_text(html, text):
    assert visible(html)[0] == text
    assert shown(html) == text


_MARKUP = re.findall(
    r"\S+",
    """
    < </ > /> <p> <P> </p> <br> <BR/> <td> </td> <tr> </tr> <table> </table> <b> </b> <o:p> <Table> <li> <hr/> <td <th>
    <a_href='http://x.test/a'> <a_name=x> </a> <A_HREF="https://x.test/?a=1&amp;b"> </A> <area_href=http://z.test>
    <img_alt="A_pic"> <img_alt="b_&amp;lt;_c"> <IMG_ALT=x> <Img_alt='q'> <SPAN_class="x"> <x_y='a<b'> <x_y=' " ' =
    <head> </head> <HEAD> <title> </title> <title/> <headx> <style> </style> <Style_type=x> </STYLE_> <template>
    </template> <script> </script> if_(a<b){} <body> <BODY_style='x>y'> </body> <body-x> <html> </html> <!doctype_html>
    <!-- --> <!--[if_mso]> <![endif]--> <!> <?xml_?> </_> <input_value='a>b'> <p_title="</style>"> &nbsp; &amp; &lt;
    &#8364; &copy &am p; & text _ __ é € <headſ> <ſtyle>
    """,
)
_BLANKS = " \n\t\r\f\v\u00a0\u200b\u00ad\u2003\u2028\x1c"


@given(st.lists(st.one_of(st.sampled_from(_MARKUP), st.sampled_from(_BLANKS)), max_size=40))
@settings(max_examples=500)
def test_the_text_alone_is_the_text_with_the_links(pieces):
    html = "".join(pieces).replace("_", " ")
    assert shown(html) == visible(html)[0]


@given(st.binary(max_size=2000))
@settings(max_examples=200)
def test_any_bytes_are_a_message(raw):
    check(raw)


_PIECES = st.sampled_from(
    [
        *(b"Content-Type: multipart/%b; boundary=b\r\n" % kind for kind in (b"mixed", b"digest", b"related")),
        b"Content-Type: message/rfc822\r\n",
        b"Content-Type: text/html; charset=utf-16\r\n",
        b"Content-Transfer-Encoding: base64\r\n",
        b"Content-Transfer-Encoding: quoted-printable\r\n",
        b"Content-Disposition: attachment; filename=../x\r\n",
        *(b"--b\r\n", b"--b--\r\n", b"\r\n", b"\n", b"From: ", b"Subject: ", b"QUJD", b"=\r\n", b"=3D"),
        *(b"=?utf-8?q?=C3?=", b"<a href=", b"\xff", b"\0", b"a" * 70),
    ]
)


@given(st.lists(st.one_of(_PIECES, st.binary(max_size=5)), max_size=40))
@settings(max_examples=300)
def test_any_pieces_of_mail_are_a_message(pieces):
    check(b"".join(pieces))


@pytest.mark.parametrize("seed", range(3))
def test_mutated_messages_are_messages(seed):
    chance = random.Random(seed)
    raw = mail(attachments=[("a.pdf", b"%PDF" * 50)], text="code 123456 https://x.test/y")
    for _ in range(150):
        mutated = bytearray(raw if chance.random() < 0.7 else CALENDAR)
        for _ in range(chance.randint(1, 8)):
            at = chance.randrange(len(mutated))
            what = chance.random()
            if what < 0.4:
                mutated[at] = chance.randrange(256)
            elif what < 0.7:
                del mutated[at : at + chance.randint(1, 40)]
            else:
                mutated[at:at] = mutated[: chance.randint(0, 60)]
        check(bytes(mutated))


def check(raw):
    """Whatever is asked of a parsed message has an answer."""
    parsed = parse(raw)
    for value in (parsed.head, parsed.parts, parsed):
        orjson.dumps(value)
    for text in (parsed.subject, parsed.snippet, parsed.message_id, *(p.filename for p in parsed.parts)):
        assert not set(text) & set("\r\n\0")
    assert "\0" not in parsed.text + parsed.html + parsed.visible
    assert [p.n for p in parsed.parts] == list(range(1, len(parsed.parts) + 1))
    for each in parsed.parts:
        assert each.parent is None or each.parent < each.n
        if each.size is None:
            with pytest.raises(NoPart):
                part(raw, each.n, parsed.head.parser)
        else:
            kind, name, data = part(raw, each.n, parsed.head.parser)
            assert (kind, name, len(data)) == (each.content_type, each.filename, each.size)


def test_text_beyond_the_cap_is_cut_and_said_so():
    raw = b"Subject: s\r\n\r\n" + "é".encode() * 3_000_000
    parsed = parse(raw)
    assert parsed.text == "é" * 1024 * 1024
    assert parsed.head.text_truncated
    assert not parsed.head.html_truncated
    cut = b"Subject: s\r\n\r\n" + ("x" + "€" * 2_000_000).encode()
    assert set(parse(cut).text) == {"x", "€"}
    page = parse(b"Content-Type: text/html\r\n\r\n" + b"<p>x" * 600_000)
    assert page.head.html_truncated
    assert len(page.html) == 1024 * 1024


def test_a_large_message_is_read_by_places_and_none_of_its_attachments_decoded():
    """Above the limit the plain parser is taken; the sizes it says without decoding are those of what it decodes."""
    attachment = bytes(range(256)) * 20_000 + b"tail"
    raw = mail(text="hello", attachments=[("a.bin", attachment), ("b.txt", b"\x00" * 3_000_001)])
    assert len(raw) > bounded.LARGE
    parsed = parse(raw)
    assert parsed.head.parser == "plain"
    assert parsed.text.strip() == "hello"
    sizes = {each.filename: each.size for each in parsed.parts if each.filename}
    assert sizes == {"a.bin": len(attachment), "b.txt": 3_000_001}
    (number,) = (each.n for each in parsed.parts if each.filename == "a.bin")
    assert part(raw, number, "plain")[2] == attachment


def test_a_large_text_is_cut_at_its_cap():
    raw = b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + "ä".encode() * 3_000_000
    parsed = parse(raw)
    assert parsed.head.text_truncated
    assert parsed.text == "ä" * 1024 * 1024
    assert parsed.parts[0].size == 6_000_000
