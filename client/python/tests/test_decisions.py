"""When to ask again, and where: without a clock or a network."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta

import pytest
from grpc import StatusCode

from baton_client import (
    BatonError,
    ContextTooLong,
    Internal,
    InvalidRequest,
    ModelNotFound,
    NodesDied,
    Overloaded,
    RetryPolicy,
    Unauthenticated,
    Unavailable,
)
from baton_client._endpoints import LONGEST_PASSED_OVER, Endpoints
from baton_client._status import Refused, parse
from baton_client.errors import error_of
from baton_client.retry import Attempts, Budget

BROKEN = Refused(StatusCode.UNAVAILABLE, "reset")
SECOND = timedelta(seconds=1)
FULL = Refused(StatusCode.RESOURCE_EXHAUSTED, "full", "AT_CAPACITY", SECOND)


@dataclass
class Place:
    target: str


def attempts(policy: RetryPolicy, budget: Budget | None = None) -> Attempts:
    return Attempts(policy, budget or Budget(policy), random.Random(1))


@pytest.mark.parametrize(
    ("refused", "again", "kind"),
    [
        (BROKEN, True, Unavailable),
        (Refused(StatusCode.INTERNAL, "RST_STREAM"), True, Unavailable),
        (Refused(StatusCode.UNKNOWN, "Stream removed"), True, Unavailable),
        (Refused(StatusCode.CANCELLED, "RST_STREAM"), True, Unavailable),
        (Refused(StatusCode.UNAVAILABLE, "", "NO_NODES"), True, Unavailable),
        (FULL, True, Overloaded),
        (Refused(StatusCode.RESOURCE_EXHAUSTED, "", "AT_CAPACITY"), False, Overloaded),
        (Refused(StatusCode.RESOURCE_EXHAUSTED, "too large a message"), False, Overloaded),
        (Refused(StatusCode.INTERNAL, "", "INTERNAL"), False, Internal),
        (Refused(StatusCode.FAILED_PRECONDITION, "", "NODES_DIED"), False, NodesDied),
        (Refused(StatusCode.INVALID_ARGUMENT, "", "INVALID_SAMPLING"), False, InvalidRequest),
        (Refused(StatusCode.NOT_FOUND, "", "MODEL_NOT_FOUND"), False, ModelNotFound),
        (Refused(StatusCode.OUT_OF_RANGE, "", "CONTEXT_TOO_LONG"), False, ContextTooLong),
        (Refused(StatusCode.UNAUTHENTICATED, "who?"), False, Unauthenticated),
        (Refused(StatusCode.DATA_LOSS, "?"), False, Internal),
    ],
)
def test_what_is_worth_another_attempt(
    refused: Refused, again: bool, kind: type[BatonError]
) -> None:
    pause = attempts(RetryPolicy()).pause_after(refused, elsewhere=False)
    assert (pause is not None) == again
    error = error_of(refused, "x-1")
    assert type(error) is kind
    assert (error.code, error.reason, error.request_id) == (refused.code, refused.reason, "x-1")


def test_pauses_grow_and_are_drawn_from_all_of_them() -> None:
    policy = RetryPolicy(attempts=40, base=0.1, longest=2.0, budget=100)
    most = [0.0] * 8
    for seed in range(400):
        row = Attempts(policy, Budget(policy), random.Random(seed))
        for failures in range(8):
            pause = row.pause_after(BROKEN, elsewhere=False)
            assert pause is not None
            most[failures] = max(most[failures], pause)
    for failures, longest in enumerate(most):
        limit = min(2.0, 0.1 * 2**failures)
        assert 0.9 * limit < longest <= limit


def test_attempts_in_a_row_are_bounded_and_tokens_start_a_new_row() -> None:
    row = attempts(RetryPolicy(attempts=3))
    for _ in range(5):
        assert row.pause_after(BROKEN, elsewhere=False) is not None
        assert row.pause_after(BROKEN, elsewhere=False) is not None
        row.progress()
    pauses = [row.pause_after(BROKEN, elsewhere=False) for _ in range(3)]
    assert pauses[2] is None


def test_the_budget_is_everybodys_but_the_first_retry_of_a_broken_stream_is_free() -> None:
    policy = RetryPolicy(budget=2, budget_per_request=0.5)
    budget = Budget(policy)
    for _ in range(50):
        assert attempts(policy, budget).pause_after(BROKEN, elsewhere=True) is not None
    refused = [attempts(policy, budget).pause_after(FULL, elsewhere=True) for _ in range(3)]
    assert [each is None for each in refused] == [False, False, True]
    for given in (None, 1.0):
        budget.earn()
        pause = attempts(policy, budget).pause_after(FULL, elsewhere=True)
        assert (pause is None) == (given is None), "two requests earn one retry"


def test_retry_info_is_waited_for() -> None:
    pause = attempts(RetryPolicy()).pause_after(FULL, elsewhere=True)
    assert pause is not None
    assert pause >= 1
    leaving = Refused(StatusCode.UNAVAILABLE, "", "SHUTTING_DOWN", SECOND)
    elsewhere = attempts(RetryPolicy()).pause_after(leaving, elsewhere=True)
    alone = attempts(RetryPolicy()).pause_after(leaving, elsewhere=False)
    assert elsewhere is not None
    assert alone is not None
    assert elsewhere < 1 <= alone


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"base": -1.0}, {"budget": float("nan")}])
def test_nonsense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        RetryPolicy(**wrong)  # type: ignore[arg-type]


def test_endpoints_take_turns() -> None:
    a, b, c = (Place(each) for each in "abc")
    endpoints = Endpoints([a, b, c])
    assert [endpoints.pick(None).target for _ in range(6)] == list("abcabc")
    assert endpoints.pick(a) is b, "not the last one"
    with pytest.raises(ValueError, match="no endpoint"):
        Endpoints([])


def test_what_failed_is_passed_over_for_longer_each_time_and_probed() -> None:
    a, b = Place("a"), Place("b")
    endpoints, now = Endpoints([a, b]), 100.0
    for passed_over in (1, 2, 4, 8, 16, LONGEST_PASSED_OVER, LONGEST_PASSED_OVER):
        endpoints.fail(a, now)
        # A second stream that broke with it changes nothing.
        endpoints.fail(a, now)
        assert {endpoints.pick(b).target for _ in range(4)} == {"b"}
        assert endpoints.to_probe(now + passed_over - 0.01) == []
        now += passed_over
        assert endpoints.to_probe(now) == [a]
        assert endpoints.to_probe(now) == [], "one probe at a time"
    endpoints.work(a)
    assert {endpoints.pick(None).target for _ in range(2)} == {"a", "b"}


def test_where_all_failed_the_first_that_is_due_is_asked() -> None:
    a, b = Place("a"), Place("b")
    endpoints = Endpoints([a, b])
    endpoints.fail(b, 1.0)
    endpoints.fail(a, 1.5)
    assert endpoints.pick(b) is b
    assert not endpoints.has_other_than(b)


def test_details_that_can_not_be_read_count_as_absent() -> None:
    metadata = (("grpc-status-details-bin", b"\xff" * 9),)
    refused = parse(StatusCode.INTERNAL, "no", metadata)
    assert refused == Refused(StatusCode.INTERNAL, "no")
