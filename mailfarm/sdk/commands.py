"""The client's verbs on the command line: ``send``, ``wait``, ``list`` and ``show``.

They read MAILFARM_URL (default http://127.0.0.1:8025), MAILFARM_TOKEN or MAILFARM_TOKEN_FILE, MAILFARM_CA and
MAILFARM_SMTP. Where these do not say, the server at MAILFARM_URL is asked where it takes mail and which its default
mailbox is. Exit codes: 0 done, 1 refused, failed or not found, 2 wrong usage, 3 cannot connect, 4 a wait timed out.
What goes wrong is said in one line on standard error; an SMTP refusal and a wait in vain take a few. What strangers
wrote is shown with its control characters escaped; octets go out as they are only where the output is no terminal.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from . import send_command, sending
from .asking import default_mailbox, open_farm
from .errors import ApiError, CannotConnect, FarmError, NoSuchMessage, NotAllowed, WaitTimeout
from .plain import line, plain, plain_lines, seconds
from .showing import body, message_form, print_message, print_table, write_octets
from .telling import DONE, FAILED, TIMED_OUT, UNREACHABLE, USAGE, positive, span, standard_output, tell
from .values import form_of
from .verbs import Criteria

if TYPE_CHECKING:
    from .client import Farm
    from .inbox import Inbox, Message

LISTED: Final = 50

ENVIRONMENT: Final = """\
environment:
  MAILFARM_URL         the server (http://127.0.0.1:8025)
  MAILFARM_TOKEN       its token, where it asks for one; MAILFARM_TOKEN_FILE names a file that holds it
  MAILFARM_CA          a PEM file with the authority of its certificate, where the system does not know it
exit codes:
  0 done, 1 failed, refused or not found, 2 wrong usage, 3 cannot connect, 4 timed out
"""
WAIT: Final = f"""\
Wait for a message and show it. One that is there already is shown at once, the oldest first; --new looks only at what
comes from now on. Criteria are parts of the text, whatever the case; a full address must be equal.

examples:
  mailfarm wait --subject reset
  mailfarm wait alice@mailfarm.test --from app@example.org --timeout 60
  code=$(mailfarm wait --subject "Your code" --code)
  curl "$(mailfarm wait --subject confirm --link confirm)"

{ENVIRONMENT}"""
LIST: Final = f"""\
List the mailboxes, or the messages of one, the newest last.

examples:
  mailfarm list
  mailfarm list inbox@mailfarm.test --unseen
  mailfarm list alice@mailfarm.test --subject reset --limit 5 --json

{ENVIRONMENT}"""
SHOW: Final = f"""\
Show a message: by id, or the latest one of a mailbox.

examples:
  mailfarm show latest
  mailfarm show latest --mailbox alice@mailfarm.test --html > page.html
  mailfarm show 01kf7w2m9xq4t6z8b0c2d4e6f8 --headers
  mailfarm show latest --part 3 > report.pdf

{ENVIRONMENT}"""


def add_parsers(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add a parser for each verb; each sets ``run``, a callable from the parsed arguments to the exit code."""
    send_command.add_options(_parser(subparsers, "send", "send a test mail", send_command.SEND, send_command.run))
    _wait_parser(_parser(subparsers, "wait", "wait for a message and show it", WAIT, _wait))
    _list_parser(_parser(subparsers, "list", "list mailboxes, or the messages of one", LIST, _list))
    _show_parser(_parser(subparsers, "show", "show a message", SHOW, _show))


def _parser(
    subparsers: argparse._SubParsersAction[Any],
    word: str,
    help: str,
    description: str,
    work: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        word, help=help, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=_guarded(word, work))
    return parser


def _guarded(word: str, work: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """``work`` with its errors told and made exit codes."""

    def run(args: argparse.Namespace) -> int:
        try:
            with standard_output():
                return work(args)
        except WaitTimeout as error:
            return tell(word, str(error), TIMED_OUT)
        except CannotConnect as error:
            return tell(word, f"{error} Or set MAILFARM_URL", UNREACHABLE)
        except NotAllowed as error:
            return tell(word, f"{_detail(error)}: set MAILFARM_TOKEN, or MAILFARM_TOKEN_FILE", FAILED)
        except ApiError as error:
            return tell(word, _detail(error), USAGE if error.status == 400 else FAILED)
        except ValueError as error:  # Unusable, and what the verbs do not take
            return tell(word, str(error), USAGE)
        except BrokenPipeError:  # the reader has gone, as in: mailfarm list | head
            raise
        except (FarmError, OSError) as error:
            return tell(word, str(error), FAILED)

    return run


def _detail(error: ApiError) -> str:
    """What the problem says of this case, where it says anything."""
    return line(str(error.problem.get("detail") or ""), 500) or str(error)


# wait


def _criteria(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("criteria")
    group.add_argument("--from", dest="from_", default="", metavar="TEXT", help="a sender's address, or part of it")
    group.add_argument("--to", default="", metavar="TEXT", help="a recipient's address, or part of it")
    group.add_argument("--subject", default="", metavar="TEXT", help="part of the subject")
    group.add_argument("--contains", default="", metavar="TEXT", help="part of the subject or the text")


def _wait_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mailbox", nargs="?", help="its address or id (the default mailbox)")
    _criteria(parser)
    parser.add_argument("--timeout", type=span, default=30.0, metavar="SECONDS", help="give up after so long (30)")
    parser.add_argument("--count", type=positive, default=1, metavar="N", help="wait for so many (1)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--new", action="store_true", help="only messages that come from now on")
    start.add_argument("--after", type=int, default=0, metavar="SEQ", help="only messages after this change number")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--link", nargs="?", const="", metavar="WORD", help="print only the link that contains WORD")
    output.add_argument("--code", action="store_true", help="print only the one-time code")
    output.add_argument("--id", action="store_true", help="print only the id")
    output.add_argument(
        "--json", action="store_true", help="print one JSON object: messages and cursor, or the problem document"
    )


def _wait(args: argparse.Namespace) -> int:
    with open_farm() as farm:
        inbox = farm.mailbox(args.mailbox or default_mailbox(farm))
        if sys.stderr is not None and sys.stderr.isatty() and not args.json:
            print(_waiting(args, inbox), file=sys.stderr)
        try:
            found = inbox.wait_for_all(
                args.count,
                from_=args.from_,
                to=args.to,
                subject=args.subject,
                contains=args.contains,
                timeout=args.timeout,
                after=inbox.state.cursor if args.new else args.after,
            )
        except WaitTimeout as error:
            if args.json:
                print(json.dumps(error.problem))
            raise
        if args.json:
            print(json.dumps({"messages": [message_form(mail) for mail in found], "cursor": found[-1].seq}))
            return DONE
        for number, mail in enumerate(found):
            if args.link is not None:
                print(plain(mail.link(args.link)))
            elif args.code:
                print(plain(mail.code()))
            elif args.id:
                print(mail.id)
            else:
                print("\n" if number else "", end="")
                print_message(mail)
    return DONE


def _waiting(args: argparse.Namespace, inbox: Inbox) -> str:
    """What is waited for, said to somebody who may wonder why nothing happens."""
    new = "new " if args.new else ""
    what = f"a {new}message" if args.count == 1 else f"{args.count} {new}messages"
    criteria = Criteria(args.from_, args.to, args.subject, args.contains)
    like = f" with {criteria}" if criteria.query() else ""
    where = line(inbox.address) if args.mailbox else f"the default mailbox, {line(inbox.address)}"
    return f"waiting for {what}{like} in {where}, for at most {seconds(args.timeout)}"


# list


def _list_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mailbox", nargs="?", help="its address or id; without it the mailboxes are listed")
    _criteria(parser)
    seen = parser.add_mutually_exclusive_group()
    seen.add_argument("--seen", dest="seen", action="store_true", default=None, help="only those seen")
    seen.add_argument("--unseen", dest="seen", action="store_false", help="only those not seen")
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="at most so many, the newest (50 messages, all mailboxes)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _list(args: argparse.Namespace) -> int:
    given = [f"--{name.rstrip('_')}" for name in ("from_", "to", "subject", "contains") if getattr(args, name)]
    if args.seen is not None:
        given.append("--seen" if args.seen else "--unseen")
    if given and args.mailbox is None:
        text = f"{', '.join(given)} {'choose' if len(given) > 1 else 'chooses'} among messages, not mailboxes: "
        raise sending.Unusable(f"{text}name a mailbox, as in: mailfarm list ADDRESS {given[0]} ...")
    with open_farm() as farm:
        if args.mailbox is None:
            return _list_mailboxes(farm, args.json, args.limit)
        inbox = farm.mailbox(args.mailbox)
        found = inbox.messages(
            from_=args.from_,
            to=args.to,
            subject=args.subject,
            contains=args.contains,
            seen=args.seen,
            order="desc",
            limit=args.limit or LISTED,
        )
    found.reverse()
    if args.json:
        print(json.dumps({"messages": [form_of(mail.summary) for mail in found]}))
        return DONE
    rows = [
        (
            mail.id,
            mail.received_at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            " " if mail.seen else "*",
            line(str(mail.from_ or mail.sender or "<>"), 36),
            line(mail.subject, 60) + (f"  [{mail.summary.attachments}]" if mail.summary.attachments else ""),
        )
        for mail in found
    ]
    print_table(("ID", "RECEIVED", " ", "FROM", "SUBJECT"), rows, f"no messages in {inbox.address}")
    return DONE


def _list_mailboxes(farm: Farm, as_json: bool, limit: int | None) -> int:
    inboxes = farm.mailboxes()
    if limit is not None:
        inboxes = inboxes[-limit:]
    if as_json:
        print(json.dumps({"mailboxes": [form_of(inbox.state) for inbox in inboxes]}))
        return DONE
    rows = [
        (inbox.id, str(inbox.state.messages), str(inbox.state.unseen), inbox.state.kind, line(inbox.address))
        for inbox in inboxes
    ]
    print_table(("ID", "MESSAGES", "UNSEEN", "KIND", "ADDRESS"), rows, "no mailboxes")
    return DONE


# show


def _show_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("message", help="its id, or: latest")
    parser.add_argument("--mailbox", metavar="MAILBOX", help="where to look for the latest (the default mailbox)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--text", action="store_true", help="only the text")
    what.add_argument("--html", action="store_true", help="only the HTML, as its sender wrote it")
    what.add_argument("--headers", action="store_true", help="only the header fields")
    what.add_argument("--raw", action="store_true", help="the octets as they were sent, with the trace header")
    what.add_argument("--part", type=int, metavar="N", help="the octets of a part, decoded")
    what.add_argument("--json", action="store_true", help="everything as one JSON object")


def _show(args: argparse.Namespace) -> int:
    with open_farm() as farm:
        mail = _the_message(farm, args)
        if args.json:
            print(json.dumps(message_form(mail)))
        elif args.raw:
            write_octets(mail.raw)
        elif args.part is not None:
            write_octets(mail.read_part(args.part))
        elif args.headers:
            for name, value in mail.headers.fields:
                print(f"{plain(name)}: {plain_lines(value)}")
        elif args.html:
            print(body(mail.html))
        elif args.text:
            print(body(mail.text))
        else:
            print_message(mail)
    return DONE


def _the_message(farm: Farm, args: argparse.Namespace) -> Message:
    if args.message != "latest":
        return farm.message(args.message)
    inbox = farm.mailbox(args.mailbox or default_mailbox(farm))
    for mail in inbox.messages(order="desc", limit=1):
        return mail
    raise NoSuchMessage(
        f"{inbox.address} is empty; send one with: mailfarm send --to {inbox.address}", status=404, problem={}
    )
