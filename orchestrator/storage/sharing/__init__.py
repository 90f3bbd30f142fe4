"""Whether machines see one and the same folder or bucket: by writing there and reading it back.

The command leaves a *sign* of random name and content (`Shared`), every other machine looks for it
and answers beside it (`look`), and the command reads the answers (`Shared.confirm`). Everything is
removed in the end. Files that were never asked for before are used throughout, so that no NFS
client answers from its cache.
"""

from __future__ import annotations

from orchestrator.storage.addresses import location as shown
from orchestrator.storage.sharing.mounts import filesystem, is_network
from orchestrator.storage.sharing.sign import Shared, Sight, look
from orchestrator.storage.sharing.spots import Sign
from orchestrator.storage.sharing.words import is_uri, listed, said, told

__all__ = [
    "Shared",
    "Sight",
    "Sign",
    "filesystem",
    "is_network",
    "is_uri",
    "listed",
    "look",
    "said",
    "shown",
    "told",
]
