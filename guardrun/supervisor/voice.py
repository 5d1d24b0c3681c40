"""How what COMMAND says reaches our own stdout and stderr."""

from __future__ import annotations

from guardrun.supervisor.output import open_output
from guardrun.supervisor.replay import Replay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Protocol

    from guardrun.model import Event, ExecSpec
    from guardrun.supervisor.output import Output
    from guardrun.supervisor.replay import Chunk, Held

    class Written(Protocol):
        """Something that is being written at the pace of whoever reads it."""

        def interests(self) -> Sequence[tuple[int, int]]:
            """What to poll for; nothing when all is written."""

        def ready(self, fd: int) -> None:
            """Write on."""

        def close(self) -> None:
            """Leave the rest."""


class Voice:
    """That of a run which has our streams to itself: as it comes."""

    def output(self, spec: ExecSpec, emit: Callable[[Event], None], held: Held) -> Output:
        """Make COMMAND's streams for one attempt."""
        return open_output(spec, emit, held)

    def replay(self, chunks: Iterable[Chunk]) -> Written:
        """Write what was held back or stored."""
        return Replay(chunks)
