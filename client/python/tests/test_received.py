"""What a client has, and what may come next."""

from __future__ import annotations

import pytest
from fake import answer

from baton_client import Chunk, Complete, Event, FinishReason, ProtocolError, Started
from baton_client._proto.baton.v1 import inference_pb2 as pb
from baton_client._received import Received
from baton_client.events import Usage, event_of

STARTED = Started("req-1", "sim", 7, 4)
TIMINGS = event_of(pb.GenerateResponse(complete=pb.Complete()))
assert isinstance(TIMINGS, Complete)
END = Complete(0, FinishReason.STOP, Usage(4, 2, 0), TIMINGS.timings)


def chunk(index: int, *tokens: int, choice: int = 0) -> Chunk:
    return Chunk(choice, index, tokens, "")


def heard(*events: Event, choices: int = 1) -> Received:
    received = Received(choices)
    for event in events:
        received.hear(event)
    return received


def test_it_asks_for_what_is_missing() -> None:
    assert Received(2).resume() is None, "nothing came: all is asked for"
    received = heard(STARTED, chunk(0, 5, 6), chunk(0, 8, choice=1), END, choices=2)
    assert not received.is_over
    resume = received.resume()
    assert resume is not None
    assert resume.request_id == "req-1"
    assert [list(each.token_ids) for each in resume.received] == [[5, 6], [8]]
    assert [each.complete for each in resume.received] == [True, False]


def test_a_second_started_is_not_news_and_has_the_latest_id() -> None:
    received = heard(STARTED, chunk(0, 5))
    received.begin()
    assert not received.hear(Started("req-2", "sim", 7, 4))
    assert received.hear(chunk(1, 6))
    resume = received.resume()
    assert resume is not None
    assert resume.request_id == "req-2"


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([chunk(0, 1)], "doesn't begin with Started"),
        ([STARTED, STARTED], "Started twice"),
        ([STARTED, chunk(1, 1)], "a gap"),
        ([STARTED, chunk(0, 1), chunk(0, 1)], "a repeat"),
        ([STARTED, chunk(0, 1, choice=1)], "choice 1 of 1"),
        ([STARTED, END, chunk(0, 1)], "behind its end"),
        ([STARTED, END, END], "behind its end"),
        ([STARTED, Chunk(0, 0, (1, 2), "", (9,))], "2 tokens come with 1 logits_digests"),
    ],
)
def test_what_does_not_go_on_is_refused(events: list[Event], says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        heard(*events)


@pytest.mark.parametrize(
    "other",
    [Started("req-2", "sim", 8, 4), Started("req-2", "other", 7, 4), Started("r", "sim", 7, 5)],
)
def test_another_answer_is_not_the_rest(other: Started) -> None:
    received = heard(STARTED)
    received.begin()
    with pytest.raises(ProtocolError, match="goes on with"):
        received.hear(other)


def test_unknown_events_are_passed_over() -> None:
    assert event_of(pb.GenerateResponse()) is None


def test_events_have_everything_that_messages_have() -> None:
    request = pb.GenerateRequest(model="sim")
    for message in answer(request, "req-1"):
        event = event_of(message)
        kind = message.WhichOneof("event")
        assert kind is not None
        names = {field.name for field in getattr(message, kind).DESCRIPTOR.fields}
        assert {name for name in event.__slots__} == names  # type: ignore[union-attr]
