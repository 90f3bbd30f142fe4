"""The built-in adapters, one line each: a sweep finds every class here by its `name`."""

from adapters.arc import ARC as ARC
from adapters.bottleneck import AdaptFormer as AdaptFormer
from adapters.bottleneck import Bottleneck as Bottleneck
from adapters.efft import EFFT1 as EFFT1
from adapters.efft import EFFT2 as EFFT2
from adapters.fact import FactTK as FactTK
from adapters.fact import FactTT as FactTT
from adapters.full import Full as Full
from adapters.full import Partial as Partial
from adapters.heads import LinearProbe as LinearProbe
from adapters.heads import MLPHead as MLPHead
from adapters.hta import HTA as HTA
from adapters.hta import HTAAdapter as HTAAdapter
from adapters.lora import LoRA as LoRA
from adapters.noah import NOAH as NOAH
from adapters.per_feature import SSF as SSF
from adapters.per_feature import BitFit as BitFit
from adapters.rlrr import RLRR as RLRR
from adapters.side import DTL as DTL
from adapters.side import LAST as LAST
from adapters.vpt import VPTDeep as VPTDeep
from adapters.vpt import VPTShallow as VPTShallow
