"""Sans-IO: the frames two agents exchange inside a secure stream, and what is allowed when. No I/O, no clock."""

from meshless_core.tunnel.frames import HEADER_BYTES, MAX_DATA_BYTES, End, Event, Fin, FrameType, Gone, Reset, ResetCode
from meshless_core.tunnel.preface import OpenReply, OpenRequest
from meshless_core.tunnel.session import State, TunnelSession

__all__ = [
    "HEADER_BYTES",
    "MAX_DATA_BYTES",
    "End",
    "Event",
    "Fin",
    "FrameType",
    "Gone",
    "OpenReply",
    "OpenRequest",
    "Reset",
    "ResetCode",
    "State",
    "TunnelSession",
]
