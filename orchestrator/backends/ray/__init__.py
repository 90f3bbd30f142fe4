"""Ray Tune drives the sweep: one Tuner for all studies. The only folder that imports ray.

`dispatcher`    where every trial is; begin here: it lists the stations of a trial
`tuner`         `run`, and the faces of the dispatcher that Tune calls: TuneSearcher,
                TuneScheduler, TuneCallback, and the trainable that waits for a pool
`pool_manager`  the actor that starts pools and knows which has which trial; how many trials are
                in flight
`watchdog`      ends a command whose cluster has died or does not answer
`cluster`       connecting, nodes, calling a function on every node, the shared-storage check
`jobs`          commands on the head of a running cluster, from a laptop (Ray Jobs)
"""

from orchestrator.backends.ray.cluster import Cluster
from orchestrator.backends.ray.tuner import run

__all__ = ["Cluster", "run"]
