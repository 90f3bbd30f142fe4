"""Ray Tune drives the sweep: one Tuner for all studies. The only folder that imports ray.

`tuner`      connects the rest: `run` is the way in
`asks`       Tune's Searcher hands over what `Search.ask` gives; its scheduler answers rung results
             with what `Search.rung` says. Tune hears nothing else.
`trainable`  a light process without torch that holds a fraction of a device and forwards its trial
             to the pool of that device; reused between trials
`directory`  one pool per GPU (or group of cores), started before the first trial or on demand
`width`      how many trials are in flight; `starts`: whether one more trainable pays
`cluster`    the cluster itself: reached or started, its nodes
`nodes`      a function on every node: what a sweep needs to see there, and what `doctor` asks
`jobs`       commands on the head of a running cluster, from a laptop (Ray Jobs)
"""

from orchestrator.backends.ray.cluster import Cluster
from orchestrator.backends.ray.tuner import run

__all__ = ["Cluster", "run"]
