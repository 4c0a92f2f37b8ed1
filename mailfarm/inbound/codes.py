"""One-time codes: what a person would type in after reading the message, best first.

A candidate is 4 to 10 digits, perhaps in two groups ("123 456", "123-456"), digits behind a short prefix ("G-123456"),
or capitals and digits mixed ("A1B2C3", "AB12-CD34"). Points say how likely each is: words such as "code" near it, a
line of its own, a usual length; less for what looks like a year, a telephone number, a price, an order's number. Digits
in two groups are given without what parts them; everything else as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

MOST = 50
LONGEST_TEXT = 64 * 1024
"""Characters of each text that are looked at."""
MOST_CANDIDATES = 500
ENOUGH = 30
"""Points from which a candidate is given at all."""

# Every repetition below is bounded where another may follow it: no text takes long.
_URL = re.compile(r"\b(?:https?://|www\.)\S+|[^\s@]{1,64}@[^\s@]{1,255}", re.IGNORECASE)
# The same where there is no address: a letter to look for first makes it four times as fast.
_ONLY_URL = re.compile(r"[hHwW](?<!\w[hHwW])(?:(?<=[hH])[tT][tT][pP][s\u017fS]?://|(?<=[wW])[wW]{2}\.)\S+")
# What every candidate has; none goes beyond its line.
_HOLDS = re.compile(r"[\dA-Z](?:(?<=\d)|[A-Z]{2})")
_CANDIDATE = re.compile(
    r"(?<![\w.,/:#%+$€£¥@=&-])(?:"
    r"(?P<prefixed>[A-Z]{1,3}-\d{4,8})"
    r"|(?P<grouped>\d{3}[ \u00a0-]\d{3}|\d{4}[ \u00a0-]\d{4}|\d{2}[ \u00a0]\d{2}[ \u00a0]\d{2})"
    r"|(?P<spread>\d(?:[ \u00a0]\d){3,7})"
    r"|(?P<digits>\d{4,10})"
    r"|(?P<mixed>(?=[A-Z-]{0,9}\d)(?=[\d-]{0,9}[A-Z])[A-Z0-9]{3,10}(?:-[A-Z0-9]{3,6}){0,2})"
    r"|(?P<letters>[A-Z]{3,5}-[A-Z]{3,5}|[A-Z]{4,8})"
    r"|(?P<small>(?=[a-z]{0,9}\d)(?=\d{0,9}[a-z])[a-z0-9]{5,10})"
    r")(?![\w%°€$£]|[.,:/@-]\w|[ \u00a0][€$£%]|[ \u00a0-]\d{2,})"
)
_KEYWORD = re.compile(
    r"\b(?:one[- ]?time|otp|passcode|pass ?code|password|pin|code|codes|2fa|two[- ]factor|2-step|verification|verify|"
    r"verifying|authenticat\w*|confirm\w*|log ?in|sign[- ]?in|security|token|access|"
    r"einmal\w*|\w{0,30}code|\w{0,30}kode|bestätigung\w*|sicherheits\w*|anmelde\w*|tan|kennwort|passwort|"
    r"código|codigo|verificación|verificação|clave|contraseña|code d\w*|vérification|codice|verifica|"
    r"kod|kodu|koodi|kód|код|пароль|κωδικός)\b|認証|確認|コード|验证码|驗證碼|校验码|인증|코드|رمز|קוד",
    re.IGNORECASE,
)
_STRONG = re.compile(
    r"\b(?:one[- ]?time|otp|passcode|pass ?code|pin|code|einmal\w*|\w{0,30}code|\w{0,30}kode|tan|código|codigo|codice|"
    r"kod|kodu|kód|koodi|код|token|κωδικός)\b|認証|確認コード|コード|验证码|驗證碼|校验码|인증|코드|رمز|קוד",
    re.IGNORECASE,
)
# What numbers are called that are no codes. "Reference code" is not meant: a strong word nearer wins.
_OTHER = re.compile(
    r"\b(?:order|orders|invoice|reference|ref|ticket|account|customer|case|tracking|booking|reservation|receipt|"
    r"transaction|zip|postal|postcode|postleitzahl|plz|area|phone|tel|telephone|telefon|mobile|call|fax|ext|tel\.|total|"
    r"amount|balance|price|invoice|rechnung|bestellung|bestellnummer|kundennummer|vorgang|number|no|nr|nummer|id|"
    r"ending|ends|card|version|build|error|http|status|promo|coupon|discount|voucher|gutschein|since|copyright|suite|"
    r"floor|street|box|p\.o|usd|eur|gbp|rfc|iso)\b\W{0,3}|[©®]\s?",
    re.IGNORECASE,
)
_YEAR = re.compile(r"(?:19|20)\d\d")
_JOIN = re.compile(r"[ \u00a0-]")


def codes(texts: Iterable[str]) -> tuple[str, ...]:
    """The codes in ``texts`` (subject, text, visible HTML text), best first, each once."""
    best: dict[str, int] = {}
    looked_at = [_without_urls(text[:LONGEST_TEXT]) for text in texts if text]
    for text in looked_at:
        for code, points in _judged(text):
            if points > best.get(code, ENOUGH - 1):
                best[code] = points
    # a number on a line of its own is no code where nobody speaks of one
    if not any(_KEYWORD.search(text) for text in looked_at if best):
        return ()
    # sorted is stable: among equals, the one that comes first
    return tuple(sorted(best, key=lambda code: -best[code])[:MOST])


def _without_urls(text: str) -> str:
    pattern = _URL if "@" in text else _ONLY_URL
    return pattern.sub(lambda match: " " * len(match[0]), text)


def _candidates(text: str) -> Iterator[re.Match[str]]:
    at = 0
    while (holds := _HOLDS.search(text, at)) is not None:
        begin = text.rfind("\n", at, holds.start()) + 1 or at
        end = text.find("\n", holds.end())
        at = len(text) if end < 0 else end
        yield from _CANDIDATE.finditer(text, begin, at)


def _judged(text: str) -> Iterable[tuple[str, int]]:
    for match in islice(_candidates(text), MOST_CANDIDATES):
        kind, found = match.lastgroup or "", match[0]
        points = _points(text, match.start(), match.end(), kind, found)
        yield (_JOIN.sub("", found) if kind in ("grouped", "spread") else found), points


_BY_KIND = {"prefixed": 25, "grouped": 15, "spread": 15, "digits": 10, "mixed": 10, "letters": -25, "small": -20}
_BY_LENGTH = {4: 4, 5: 6, 6: 15, 7: 4, 8: 8, 9: 0, 10: -4}


def _points(text: str, start: int, end: int, kind: str, found: str) -> int:
    before, after = text[max(0, start - 80) : start], text[end : end + 50]
    points = _BY_KIND[kind] + (_BY_LENGTH.get(len(_JOIN.sub("", found)), 0) if kind not in ("letters", "small") else 0)
    points += _near(before, after)
    line_before, line_after = before.rpartition("\n")[2].strip(" \t*_>|-–:\u00a0"), after.partition("\n")[0]
    alone = not line_before and not line_after.strip(" \t*_|.\u00a0")
    if alone:
        points += 25
    if re.search(r"(?:\bis|\bist|\best|\bes|\bé|:|：|=|是|は|为|為)\s{0,4}[\"'“*`]{0,2}$", before[-12:], re.IGNORECASE):
        points += 15
    others = list(_OTHER.finditer(before[-30:]))
    if others and not alone and others[-1].end() >= len(before[-30:]) - 12:
        strong = list(_STRONG.finditer(before[-30:]))
        if not strong or strong[-1].end() < others[-1].start():
            points -= 45
    if kind == "digits" and len(found) == 4 and _YEAR.fullmatch(found) and not alone:
        points -= 30
    if kind == "letters" and (found.lower() in _WORDS or _KEYWORD.fullmatch(found) or not _assigned(before)):
        points -= 100
    if kind == "small" and not _assigned(before):
        points -= 100
    return points


_WORDS = {"code", "your", "this", "here", "note", "html", "http", "https", "none", "please", "from", "with", "click"}


def _assigned(before: str) -> bool:
    """Whether the words right before say that here comes the code."""
    return bool(_ASSIGNED.search(before[-60:]))


_ASSIGNED = re.compile(
    r"(?:code|otp|pin|passcode|token|tan|código|codice|kod|код)\b[^\n.]{0,20}?(?:\bis\b|\bist\b|\best\b|\bes\b|:|：|=)?"
    r"[\s\"'“*`]{0,6}$",
    re.IGNORECASE,
)


def _near(before: str, after: str) -> int:
    points = 0
    for pattern, most in ((_STRONG, 45), (_KEYWORD, 25)):
        in_front = list(pattern.finditer(before))
        if in_front:
            points = max(points, most - (len(before) - in_front[-1].end()) // 3)
        first = pattern.search(after)
        if first is not None:
            points = max(points, most - 8 - first.start() // 2)
    return points
