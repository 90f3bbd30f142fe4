"""The registry: the exported best configuration of every (suite, backbone, task, adapter).

    registry/index.json
    registry/<suite>/<backbone>/<task>/<adapter>/
        config.json  evidence.json  adapter_config.json  adapter_model.safetensors

The exported weights are those of the first final seed: choosing the best seed on test would leak,
and the evidence has the spread over seeds. Winners under the protocol `paper` were chosen on test:
every file of their entries says so, and loading one warns. Only `load` and `export_merged` import
torch, when they are called.
"""

from orchestrator.registry.exporter import export, recorded_metrics
from orchestrator.registry.index import INDEX, WEIGHTS, Index, RegistryEntry, read_index
from orchestrator.registry.loader import configurations, export_merged, load

__all__ = [
    "INDEX",
    "WEIGHTS",
    "Index",
    "RegistryEntry",
    "configurations",
    "export",
    "export_merged",
    "load",
    "read_index",
    "recorded_metrics",
]
