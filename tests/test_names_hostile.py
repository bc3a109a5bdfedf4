"""Answers of a name server that were tampered with."""

from __future__ import annotations

import dns.message
import dns.name
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpoll_asyncio.stacks.names.messages import Query, Reply, make_query, read_reply
from vpoll_asyncio.stacks.names.messages import absolute as name_of

pytestmark = pytest.mark.needs("dnspython")


def question(kind: str = "A") -> Query:
    name = name_of("www.lab.example")
    assert name is not None
    return make_query(name, kind)  # type: ignore[arg-type]


def answer(query: Query, *records: str) -> bytes:
    message = dns.message.make_response(query.message)
    for record in records:
        owner, kind, value = record.split()
        message.answer.append(dns.rrset.from_text(owner, 60, "IN", kind, value))
    return message.to_wire()


QUERY = question()
ANSWER = answer(QUERY, "www.lab.example. CNAME hop.lab.example.", "hop.lab.example. A 10.0.0.80")


@given(st.data())
def test_whatever_is_changed_an_answer_is_read_or_refused(data: st.DataObject) -> None:
    wire = bytearray(ANSWER)
    for _ in range(data.draw(st.integers(1, 6))):
        # The identifier stays: another one is refused at once.
        place = data.draw(st.integers(2, len(wire) - 1))
        wire[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(2, len(wire)))
    reply = read_reply(QUERY, bytes(wire[:end]))
    assert reply is None or isinstance(reply, Reply)


@given(st.binary(max_size=600))
def test_whatever_follows_the_question_an_answer_is_read_or_refused(rest: bytes) -> None:
    head = bytearray(QUERY.wire)
    head[2] |= 0x80
    head[7] = 3
    assert isinstance(read_reply(QUERY, bytes(head) + rest), Reply)


def test_aliases_in_a_circle_are_the_servers_failure() -> None:
    wire = answer(
        QUERY, "www.lab.example. CNAME hop.lab.example.", "hop.lab.example. CNAME www.lab.example."
    )
    reply = read_reply(QUERY, wire)
    assert reply is not None
    assert not reply.usable


def test_addresses_of_other_names_are_not_taken() -> None:
    reply = read_reply(QUERY, answer(QUERY, "evil.example. A 6.6.6.6"))
    assert reply is not None
    assert reply.values == ()


@pytest.mark.parametrize(
    "name", ["bad\\032name.lab.example.", "-x.lab.example.", "a\\000b.example."]
)
def test_names_that_no_host_has_are_not_told(name: str) -> None:
    query = question("PTR")
    reply = read_reply(query, answer(query, f"www.lab.example. PTR {name}"))
    assert reply is not None
    assert reply.values == ()
