"""Random programs as tests of the suite."""

from __future__ import annotations

from .lab import Hosts
from .program_datagrams import Datagrams
from .program_full import Full
from .program_ports import Ports
from .program_streams import Streams
from .programs import ProgramSuite


class ProgramTests(ProgramSuite):
    """The stack's answers to random programs are the kernel's."""

    programs = {"Streams": Streams, "Datagrams": Datagrams, "Full": Full, "Ports": Ports}

    def test_random_programs_with_streams(self, hosts: Hosts) -> None:
        self.run_program("Streams", hosts)

    def test_random_programs_with_datagrams(self, hosts: Hosts) -> None:
        self.run_program("Datagrams", hosts)

    def test_random_programs_that_fill_buffers(self, hosts: Hosts) -> None:
        self.run_program("Full", hosts)

    def test_random_programs_about_ports(self, hosts: Hosts) -> None:
        self.run_program("Ports", hosts)
