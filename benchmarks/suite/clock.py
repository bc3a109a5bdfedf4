"""The clock of scenarios in which one process does all the work and never sleeps.

The wall's clock by default.  On a machine that others use at the same time the processor's
(``--clock cpu``) says what the wall's would on a quiet one: the time that this process had.
(Not of what the kernel does for loopback's packets, where it
accounts for interrupts apart: CONFIG_IRQ_TIME_ACCOUNTING.)  Scenarios with a second process or with sleep in them have the wall's clock always.
"""

from __future__ import annotations

import os
import time

VARIABLE = "SUITE_CLOCK"

now = time.process_time if os.environ.get(VARIABLE) == "cpu" else time.perf_counter
"""Returns seconds."""
