"""Parameter-efficient fine-tuning of timm Vision Transformers, on a trial axis.

Usable alone: this package imports torch, timm and safetensors, nothing of the orchestrator.
"""

from adapters.attach import attach as attach
from adapters.attach import attach_members as attach_members
from adapters.attach import attached as attached
from adapters.attach import detach as detach
from adapters.base import Adapter as Adapter
from adapters.base import Kind as Kind
from adapters.base import Parameter as Parameter
from adapters.built_in import *  # noqa: F403 (classes of adapters, nothing else)
from adapters.errors import AdapterError as AdapterError
from adapters.errors import UnsupportedBackbone as UnsupportedBackbone
from adapters.hyperparameters import hyperparameter as hyperparameter
from adapters.merge import merge as merge
from adapters.names import build as build
from adapters.names import get as get
from adapters.names import names as names
from adapters.storage import load as load
from adapters.storage import save as save
