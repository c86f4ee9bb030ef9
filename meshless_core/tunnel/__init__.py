"""Sans-IO: the frames two agents exchange inside a secure stream, and what is allowed when. No I/O, no clock."""

from meshless_core.tunnel.preface import OpenReply, OpenRequest

__all__ = ["OpenReply", "OpenRequest"]
