"""Copies of the memory stack with a fault planted in each: what the conformance suite must find.

A mutant is the stack's own source with one piece of text replaced, loaded beside the real one.
`load` gives its class.  Run by pytest, this file's table becomes one subclass of the suite for
every mutant (`suites`), as a stack's author would write it.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

import vpoll_asyncio.stacks
from vpoll_asyncio.stacks.memory import MemoryStack
from vpoll_asyncio.testing import Hosts, StackSuite

__all__ = ["MUTANTS", "UNCHANGED", "Mutant", "load", "suite_of"]

PACKAGE: Final = Path(vpoll_asyncio.__file__).parent
MEMORY: Final = PACKAGE / "stacks" / "memory"
PIPE: Final = PACKAGE / "hot" / "pipe.py"


class Mutant(NamedTuple):
    """One planted fault.

    file -- of the memory stack, or ``pipe.py``
    old, new -- the text that is replaced, which occurs once, and by what
    killer -- the test of the suite, with its case perhaps, that finds it, every time
    """

    name: str
    file: str
    old: str
    new: str
    killer: str


UNCHANGED: Final = Mutant("Unchanged", "", "", "", "")

MUTANTS: Final = (
    Mutant(
        "InStaysWhenEmptied",
        "transfer.py",
        "                        emptied = not self.used and not self.shut & RCV\n",
        "                        emptied = False\n",
        "test_data_wait_until_they_are_read",
    ),
    Mutant(
        "InGoesWhileDataWait",
        "transfer.py",
        "                        emptied = not self.used and not self.shut & RCV\n",
        "                        emptied = not self.shut & RCV\n",
        "test_data_wait_until_they_are_read",
    ),
    Mutant(
        "InIsNotShownWhenDataCome",
        "pipe.py",
        "                peer.mask |= R\n",
        "                pass\n",
        "test_data_wait_until_they_are_read",
    ),
    Mutant(
        "PeekingTakesIn",
        "transfer.py",
        "                data = self.peek_ordinary(bufsize)\n",
        "                data = self.peek_ordinary(bufsize)\n"
        "                self.mask &= ~R\n"
        "                touched.append(self)\n",
        "test_peeking_leaves_the_mask",
    ),
    Mutant(
        "NoRdhupOnFin",
        "tcp.py",
        "            mask |= R | RDHUP\n",
        "            mask |= R\n",
        "test_fin_of_the_peer_with_data_before_it",
    ),
    Mutant(
        "FinIsNotShown",
        "tcp.py",
        "            self.refresh()\n"
        "            touched.append(self)\n"
        "        if sender is not None:\n",
        "            pass\n        if sender is not None:\n",
        "test_close_of_the_peer",
    ),
    Mutant(
        "FinOvertakesData",
        "tcp.py",
        "        if self.used <= self.rcvbuf:\n            self.receive_fin(touched)\n",
        "        self.receive_fin(touched)\n",
        "test_fin_behind_full_buffers_comes_after_the_data",
    ),
    Mutant(
        "RdhupStaysAfterDisconnect",
        "tcp.py",
        "        self.shut = 0\n        self.fin = NO_FIN\n",
        "        self.fin = NO_FIN\n",
        "test_connect_again_after_refused",
    ),
    Mutant(
        "HupOnHalfClose",
        "tcp.py",
        "        if shut == BOTH or state == CLOSE:\n",
        "        if shut or state == CLOSE:\n",
        "test_own_shutdown_for_writing",
    ),
    Mutant(
        "NoHupWhenBothAreShut",
        "tcp.py",
        "        if shut == BOTH or state == CLOSE:\n",
        "        if state == CLOSE:\n",
        "test_own_shutdown_of_both_directions",
    ),
    Mutant(
        "NoHupOnFresh",
        "tcp.py",
        "        self.mask = W | HUP\n",
        "        self.mask = W\n",
        "test_fresh_stream",
    ),
    Mutant(
        "OutWhileConnecting",
        "tcp.py",
        "        if state != SYN_SENT:\n            used = self.used\n",
        "        mask |= W\n        if state != SYN_SENT:\n            used = self.used\n",
        "test_backlog_of_zero_takes_one_connection",
    ),
    Mutant(
        "OutWhileTheBufferIsFull",
        "pipe.py",
        "            full = peer.used > peer.rcvbuf and not self.writable()\n",
        "            full = False\n",
        "test_full_send_buffer_and_then_own_shutdown",
    ),
    Mutant(
        "OutOfRoomAfterOwnShutdown",
        "tcp.py",
        "            if shut & SND or peer is None or",
        "            if peer is None or",
        "test_full_send_buffer_and_then_own_shutdown",
    ),
    Mutant(
        "NoOutWhenRoomIsMade",
        "tcp.py",
        "        if sender is not None and not sender.orphan and not sender.mask & OUT"
        " and sender.changed():\n            touched.append(sender)\n",
        "",
        "test_send_buffer_that_the_peer_empties_is_writable_again",
    ),
    Mutant(
        "NoWakeupOfALoopWhenRoomIsMade",
        "pipe.py",
        "                    roomy = peer\n",
        "",
        "test_streams_echo_and_end[EventLoop]",
    ),
    Mutant(
        "ErrStaysAfterSoError",
        "pcb.py",
        "            self.error = 0\n            self.refresh()\n",
        "            self.error = 0\n",
        "test_reset_by_linger_zero",
    ),
    Mutant(
        "TakenErrorIsNotShown",
        "stream.py",
        "        if changed:\n            publish(pcb)\n",
        "",
        "test_reset_by_linger_zero",
    ),
    Mutant(
        "NoErrOnReset",
        "tcp.py",
        "        if self.error:\n            mask |= ERR\n        self.mask = mask\n",
        "        self.mask = mask\n",
        "test_reset_by_linger_zero",
    ),
    Mutant(
        "ResetIsNotTold",
        "tcp.py",
        "        self._done()\n        self.refresh()\n        touched.append(self)\n",
        "        self._done()\n        self.refresh()\n",
        "test_reset_by_linger_zero",
    ),
    Mutant(
        "PriStaysAfterTheUrgentByte",
        "transfer.py",
        "            self.urg = URG_READ\n            self.refresh()\n",
        "            self.urg = URG_READ\n",
        "test_urgent_byte_read_out_of_band",
    ),
    Mutant(
        "NoPri",
        "tcp.py",
        "                mask |= PRI\n",
        "                pass\n",
        "test_urgent_byte_alone",
    ),
    Mutant(
        "PriEndsWithTheStream",
        "tcp.py",
        "            if urg == URG_VALID and self.urg_at < self.rcvbuf:\n",
        "            if urg == URG_VALID and self.urg_at < self.rcvbuf and not shut & RCV:\n",
        "test_urgent_byte_stays_when_the_peer_has_ended",
    ),
    Mutant(
        "UrgentByteAloneIsReadable",
        "tcp.py",
        "                    target += 1\n",
        "                    pass\n",
        "test_urgent_byte_alone",
    ),
    Mutant(
        "LowWaterMarkIsNotHeeded",
        "tcp.py",
        "                target = self.lowat\n",
        "                target = 1\n",
        "test_low_water_mark_keeps_data_unreadable",
    ),
    Mutant(
        "ListenerForgetsWhoWaits",
        "opening.py",
        "        self.show_queue()\n        touched.append(self)\n        return child\n",
        "        self.mask = 0\n        touched.append(self)\n        return child\n",
        "test_listener_is_readable_until_the_last_connection_is_accepted",
    ),
    Mutant(
        "ListenerStaysReadable",
        "opening.py",
        "        self.show_queue()\n        touched.append(self)\n        return child\n",
        "        return child\n",
        "test_listener_without_and_with_a_waiting_connection",
    ),
    Mutant(
        "ListenerIsNotTold",
        "opening.py",
        "        touched += (listener, self)\n",
        "        touched.append(self)\n",
        "test_listener_without_and_with_a_waiting_connection",
    ),
    Mutant(
        "PlaceInTheBacklogIsNotGiven",
        "opening.py",
        "            self.syns.popleft().establish(self, touched)\n",
        "            self.syns.popleft().establish(self, [])\n",
        "test_who_waits_for_a_full_backlog_gets_in_after_an_accept",
    ),
    Mutant(
        "NoWrband",
        "udp.py",
        "        self.mask = W | WRBAND\n",
        "        self.mask = W\n",
        "test_fresh_datagram_socket",
    ),
    Mutant(
        "InGoesWhileADatagramWaits",
        "udp.py",
        "        if not queue:\n            self.refresh()\n",
        "        self.mask &= ~R\n",
        "test_datagrams_wait_until_the_last_is_read",
    ),
    Mutant(
        "InStaysAfterTheLastDatagram",
        "udp.py",
        "        if not queue:\n            self.refresh()\n",
        "",
        "test_datagram_waits",
    ),
    Mutant(
        "EmptyDatagramIsNotReadable",
        "udp.py",
        "        self.mask |= R\n",
        "        if data:\n            self.mask |= R\n",
        "test_datagram_waits",
    ),
    Mutant(
        "RefusedDatagramIsNotTold",
        "udp.py",
        "        told.refresh()\n        touched.append(told)\n",
        "        told.refresh()\n",
        "test_refused_datagram",
    ),
    Mutant(
        "NoHupOnADatagramSocketShutDown",
        "udp.py",
        "            mask |= HUP\n",
        "            pass\n",
        "test_connected_datagram_socket_shut_down",
    ),
    Mutant(
        "MaskWithoutWakeup",
        "pcb.py",
        "                    for waiter in file.waiters:\n                        waiter(mask)\n",
        "",
        "test_event_wakes_whoever_waits[end]",
    ),
    Mutant(
        "DataWithoutWakeup",
        "pipe.py",
        "                    for waiter in file.waiters:\n                        waiter(mask)\n",
        "",
        "test_event_wakes_whoever_waits[data]",
    ),
    Mutant(
        "OneWakeupForDataThatWait",
        "pipe.py",
        "                    for waiter in file.waiters:\n                        waiter(mask)\n",
        "                    if len(chunks or ()) <= 1:\n"
        "                        for waiter in file.waiters:\n"
        "                            waiter(mask)\n",
        "test_event_wakes_whoever_waits[more data]",
    ),
)


def sources(mutant: Mutant) -> dict[str, str]:
    """Return the stack's files with the fault in one of them.

    Raises ValueError when the text to replace does not occur once.
    """
    found = {path.name: path.read_text() for path in MEMORY.glob("*.py")}
    # The classes in Python, under another name: a mutant's faults are in no compiled ones.
    pipe = PIPE.read_text().replace("from ..events", "from ...events")
    pipe = pipe.replace("from .accelerator import ACCELERATOR\n", "ACCELERATOR = None\n")
    pipe = pipe.replace("from .vpoll ", "from ...hot.vpoll ")
    found["pipe.py"] = pipe
    for name, text in found.items():
        found[name] = text.replace("from ...hot.pipe ", "from .pipe ")
    if mutant is not UNCHANGED:
        text = found[mutant.file]
        if text.count(mutant.old) != 1:
            raise ValueError(
                f"{mutant.name}: {mutant.old!r} occurs {text.count(mutant.old)} times in "
                f"{mutant.file}: expected once; bring tests/memory_mutants.py up to date"
            )
        found[mutant.file] = text.replace(mutant.old, mutant.new)
    return found


def load(mutant: Mutant, folder: Path) -> type[MemoryStack]:
    """Return the class of the stack with the fault, whose files are written to `folder`."""
    package = f"vpoll_asyncio.stacks._mutant_{re.sub(r'(?<!^)(?=[A-Z])', '_', mutant.name).lower()}"
    if package not in sys.modules:
        place = folder / package
        place.mkdir()
        for name, text in sources(mutant).items():
            (place / name).write_text(text)
        spec = importlib.util.spec_from_file_location(
            package, place / "__init__.py", submodule_search_locations=[str(place)]
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[package] = module
        spec.loader.exec_module(module)
    found: type[MemoryStack] = sys.modules[package].MemoryStack
    return found


_networks = itertools.count()


def suite_of(mutant: Mutant) -> type[StackSuite]:
    """Return the suite for a stack with that fault, as the stack's author would write it."""

    @pytest.fixture
    def hosts(self: StackSuite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
        stack = load(mutant, tmp_path_factory.getbasetemp())
        network = f"mem://mutant-{next(_networks)}"
        with (
            stack(vnl=network, ip="10.0.0.1/24") as server,
            stack(vnl=network, ip="10.0.0.2/24") as client,
        ):
            yield Hosts(server, client, "10.0.0.1", "10.0.0.2")

    # In memory every state comes at once: one that does not is not waited for.
    bound = StackSuite.bound if mutant is UNCHANGED else 0.2
    return type(f"Test{mutant.name}", (StackSuite,), {"hosts": hosts, "bound": bound})
