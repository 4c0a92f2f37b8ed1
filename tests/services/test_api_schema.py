"""schemathesis over the whole API: nothing it can think of is answered 5xx or otherwise than the document says."""

import pytest
import pytest_twisted
import schemathesis
from farm_api import Browser, clock
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from spooled_samples import spooled
from test_api_guard import serve
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from mailfarm.backends.sqlite_queue import Queue

ensure = pytest_twisted.ensureDeferred
EXAMPLES = 10
# A valid request may still be refused (an address that is none), and what schemathesis holds for invalid may be valid
# to us (a parameter it left out). That bad values are refused has tests of its own.
EXCLUDED = [positive_data_acceptance, negative_data_rejection]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@ensure
async def test_nothing_breaks_it(farm, mode):
    queue = Queue(farm.engine, "inbound", farm.ids, clock, reactor=reactor, reserve=0)
    entry = spooled(account=farm.account)
    await queue.put(entry)
    while not (await queue.depth()).aside:
        for attempt in await queue.take(1, 60.0):
            await queue.fail(attempt.fence, "it could not be parsed")
    port = await serve(farm, queue=queue)
    ask = Browser(farm.api())
    box = (await ask("POST", "/v1/mailboxes", {})).json
    for number in range(3):
        message = await farm.file(box, f"Number {number}", html="<p>hi")
    document = (await ask("GET", "/v1/openapi.json")).json
    known = {"mailboxes": box["id"], "messages": message, "queue": entry.id}

    def run() -> int:
        schema = schemathesis.openapi.from_dict(document)
        count = 0
        for found in schema.get_all_operations():
            operation = found.ok()
            count += 1

            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode), real=st.booleans())
            def one(case: schemathesis.Case, real: bool) -> None:
                kind = case.path.split("/")[2]
                if real and "id" in case.path_parameters and kind in known:
                    case.path_parameters["id"] = known[kind]
                if case.path.endswith("/wait"):
                    case.query = {**(case.query or {}), "timeout": "0"}
                if real and (case.method == "DELETE" or case.path.endswith("/retry")):
                    return  # the others want something to find
                answer = case.call(base_url=f"http://127.0.0.1:{port}", timeout=20)
                assert answer.status_code < 500, (case.as_curl_command(), answer.text)
                case.validate_response(answer, excluded_checks=EXCLUDED)

            try:
                one()
            except Unsatisfiable:
                # nothing invalid can be said to what takes no parameter and no body
                assert mode is GenerationMode.NEGATIVE
                assert not [*operation.query, *operation.body, *operation.path_parameters]
        return count

    assert await deferToThread(run) == sum(len(item) for item in document["paths"].values())
    assert not farm.failures
