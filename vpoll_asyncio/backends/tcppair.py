from .base import Backend, Mirror


class TcpPairBackend(Backend):
    name = "tcppair"
    exact = 5

    def missing(self) -> str:
        return "not built yet"

    def create(self, mask: int) -> Mirror:
        raise OSError
