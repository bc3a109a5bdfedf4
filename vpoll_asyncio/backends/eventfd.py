from .base import Backend, Mirror
class EventfdBackend(Backend):
    name = "eventfd"
    exact = 5
    def missing(self) -> str:
        return "not built yet"
    def create(self, mask: int) -> Mirror:
        raise OSError
