"""More than one process for one node's agent: `agent.workers` above 1 (ADR-0100).

A supervisor starts worker processes, each a complete agent with its own loop, and gives all of them the same pods' listeners
and the same tunnel port. What has to hold for the node as a whole (`maxConn`, the admin endpoint) is put together here. No
byte of a connection and no decision about one passes the supervisor.
"""

from meshless_core.agent.workers.nursery import Birth, Nursery, open_nursery
from meshless_core.agent.workers.place import WorkerPlace
from meshless_core.agent.workers.shared_slots import SharedSlots
from meshless_core.agent.workers.shares import pods_socket, tidy_state, worker_settings
from meshless_core.agent.workers.supervisor import Supervisor

__all__ = [
    "Birth",
    "Nursery",
    "SharedSlots",
    "Supervisor",
    "WorkerPlace",
    "open_nursery",
    "pods_socket",
    "tidy_state",
    "worker_settings",
]
