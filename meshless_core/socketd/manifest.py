"""Which pods a node has, for a socketd without a kubelet: the node's manifest on the bus says it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection
from typing import Final

from meshless_core.documents import NodeManifest, manifest_topic
from meshless_core.documents_codec import decode_document
from meshless_core.errors import BusError, DocumentError
from meshless_core.hookspecs import Bus
from meshless_core.socketd.server import SocketdServer
from meshless_core.types import PodRef

__all__ = ["follow_manifest"]

logger = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 1.0
_NOTHING: Final = (-1, -1)


async def follow_manifest(
    node: str, bus: Bus, server: SocketdServer, *, sweep: Callable[[Collection[PodRef]], object] = lambda _pods: None
) -> None:
    """Keep the parked pods equal to the manifest's until cancelled; an unreadable manifest or a lost bus changes nothing.

    Args:
        node: name of the node.
        bus: where the manifest comes from.
        server: this node's socketd.
        sweep: told the pods of the first manifest; may remove what an earlier socketd left of others.
    """
    topic = manifest_topic(node)
    newest = _NOTHING
    while True:
        try:
            async with contextlib.aclosing(bus.subscribe(frozenset({topic}))) as updates:
                async for update in updates:
                    if update.payload is None:
                        continue
                    try:
                        document = decode_document(topic, update.payload)
                    except DocumentError as error:
                        logger.error("manifest of node %s is not usable, keeping the pods there are: %s", node, error)
                        continue
                    revision = (document.epoch, document.generation)
                    if isinstance(document.body, NodeManifest) and revision > newest:
                        if newest == _NOTHING:
                            sweep(frozenset(placement.pod for placement in document.body.pods))
                        newest = revision
                        server.set_pods(document.body.pods)
            reason = "it ended the subscription"
        except BusError as error:
            reason = str(error)
        except Exception as error:  # plugin boundary: a broken bus costs news, not the pods
            logger.exception("the bus failed")
            reason = f"{type(error).__name__}: {error}"
        logger.warning("bus lost, keeping the pods there are: %s", reason)
        await asyncio.sleep(_RETRY_SECONDS)
