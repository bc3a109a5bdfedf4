"""The clock of scenarios in which one process does all the work and never sleeps.

The wall's clock by default.  On a machine that others use at the same time the processor's
(``--clock cpu``) says what the wall's would on a quiet one: the time that this process had,
with what the kernel did for it.  Where the kernel accounts for interrupts apart
(CONFIG_IRQ_TIME_ACCOUNTING), its work on loopback's packets is not in it.  Scenarios with a
second process or with sleep in them always have the wall's clock.
"""

from __future__ import annotations

import os
import time

VARIABLE = "SUITE_CLOCK"

now = time.process_time if os.environ.get(VARIABLE) == "cpu" else time.perf_counter
"""Returns seconds."""
