"""What a stream has received and nobody has read: bytes, and one of them that is urgent."""

from __future__ import annotations

__all__ = ["ReceiveBuffer"]


class ReceiveBuffer:
    """Received bytes with at most one urgent byte among them, as tcp(7) has it.

    It has no lock of its own: whoever uses it holds the `StreamLock`.
    """

    __slots__ = ("_data", "_mark", "_urgent", "urgent_waits")

    urgent_waits: bool
    """Whether there is an urgent byte that has been neither read nor passed: PRI."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._urgent = b""
        # Where the urgent byte belongs among the others; -1: nowhere, or passed.
        self._mark = -1
        self.urgent_waits = False

    def __len__(self) -> int:
        """Return how many bytes wait, the urgent one aside."""
        return len(self._data)

    @property
    def at_mark(self) -> bool:
        """Whether all that came before the urgent byte has been read: SIOCATMARK."""
        return self._mark == 0

    @property
    def readable(self) -> int:
        """How many bytes can be read up to the urgent byte's place, or at all: FIONREAD."""
        return len(self._data) if self._mark < 0 else min(self._mark, len(self._data))

    @property
    def unread(self) -> bool:
        """Whether something came that nobody has read: closing then resets the connection."""
        return bool(self._data) or self._mark >= 0

    def add(self, data: bytes) -> None:
        """Append ordinary `data`."""
        self._data += data

    def add_urgent(self, byte: bytes, ahead: int = 0) -> None:
        """An urgent `byte` has come, behind `ahead` ordinary ones that are not added yet."""
        if self._mark > 0:
            # One that has not been passed becomes ordinary.
            self._data[self._mark : self._mark] = self._urgent
        self._urgent, self.urgent_waits = byte, True
        self._mark = len(self._data) + ahead

    def read(self, size: int, peek: bool = False) -> bytes:
        """Return up to `size` bytes, not beyond the urgent byte's place, and remove them.

        peek -- leave them: MSG_PEEK

        Whoever reads at that place passes it, and an urgent byte that nobody has read is gone.
        """
        data = bytes(self._data[: min(size, self._mark) if self._mark > 0 else size])
        if not peek:
            if self._mark > 0:
                self._mark -= len(data)
            elif self._mark == 0:
                self._mark, self.urgent_waits = -1, False
            del self._data[: len(data)]
        return data

    def read_urgent(self, peek: bool = False) -> bytes:
        """Return the urgent byte, which waits; afterwards it no longer does, unless `peek`."""
        self.urgent_waits = peek
        return self._urgent
