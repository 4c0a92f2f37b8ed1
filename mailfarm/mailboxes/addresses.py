"""The addresses of mailboxes: which domains are ours, and addresses made by machine."""

from __future__ import annotations

from dataclasses import dataclass

from mailfarm.errors import Invalid
from mailfarm.ids import Ids
from mailfarm.mail.address import Address

DEFAULT_DOMAIN = "mailfarm.test"

_FIRST_WORDS = (
    "able amber ample azure balmy blue bold brave brisk calm clear clever cosy crisp deep deft eager early easy "
    "fair fast fine firm fleet fond free fresh gentle glad gold good grand great green happy hardy jolly keen kind "
    "large light lively loyal lucky mellow merry mild neat noble plain proud quick quiet rapid ready rosy sharp "
    "silver smart snug spry sunny swift tidy"
)
_SECOND_WORDS = (
    "alder ash aspen badger beech birch bison cedar clover condor crane curlew daisy deer dove eagle elder elm "
    "falcon fern finch fox grouse hare hazel heron holly ibis iris ivy jay kestrel lark laurel lily linden lotus "
    "lynx magpie maple marten moss oak olive osprey otter owl panda pine plover poplar puffin quail raven robin "
    "rowan sorrel stork swan teal thrush tulip willow wren"
)
_FIRST, _SECOND = _FIRST_WORDS.split(), _SECOND_WORDS.split()


@dataclass(frozen=True, slots=True)
class Domains:
    """The domains mailboxes may be made in; ``any``: every domain (open capture). New addresses use the first name."""

    names: tuple[str, ...] = (DEFAULT_DOMAIN,)
    any: bool = False

    @property
    def default(self) -> str:
        """Where an address made by machine lives."""
        return self.names[0] if self.names else DEFAULT_DOMAIN

    def allows(self, address: Address) -> bool:
        """Whether a mailbox may have this address."""
        domain = address.key.rpartition("@")[2]
        return self.any or any(domain == name.lower() for name in self.names)


def key_of(text: str) -> str:
    """``Address.key`` of a text; the text itself if it is no address."""
    try:
        return Address.parse(text).key
    except ValueError:
        return text


def given(text: str, domains: Domains) -> Address:
    """An address somebody asked for: RFC 5321 §4.1.2, in one of our domains. Raises Invalid."""
    try:
        address = Address.parse(text)
    except ValueError as error:
        raise Invalid(f"address {text[:320]!r} cannot be one: {error}") from None
    if not domains.allows(address):
        raise Invalid(f"address {text!r}: the domain must be one of {', '.join(domains.names)}")
    return address


def made(ids: Ids, domains: Domains) -> Address:
    """A new address: two words to tell it by and fifty random bits, so that nobody guesses it."""
    number, tail = 0, ids.new()[10:]  # an id ends in sixteen random characters of five bits
    for character in tail[:3]:
        number = number << 5 | "0123456789abcdefghjkmnpqrstvwxyz".index(character)
    words = f"{_FIRST[number % 64]}-{_SECOND[number // 64 % 64]}"
    return Address.parse(f"{words}-{tail[-10:]}@{domains.default}")
