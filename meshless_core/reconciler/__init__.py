"""The control plane: desired state from discovery, compiled into documents, published on a bus, judged in conditions."""

from meshless_core.reconciler.compilation import Desired, NodeNeeds, compile_documents
from meshless_core.reconciler.publication import Published
from meshless_core.reconciler.reconciler import Reconciler
from meshless_core.reconciler.status import Condition, MeshletStatus, ReconcilerStatus
from meshless_core.reconciler.world import MESHLET_LABEL, VERSION_LABEL, ObjectMemory, PodView, World

__all__ = [
    "MESHLET_LABEL",
    "VERSION_LABEL",
    "Condition",
    "Desired",
    "MeshletStatus",
    "NodeNeeds",
    "ObjectMemory",
    "PodView",
    "Published",
    "Reconciler",
    "ReconcilerStatus",
    "World",
    "compile_documents",
]
