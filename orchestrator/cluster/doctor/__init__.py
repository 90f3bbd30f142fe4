"""Checks whether a sweep would run well on this machine or on every node of a cluster.

`records`        what a machine is asked, what it reports, and what is found wrong
`probe`          what one machine reports about itself; `torch_probe` is the part that needs torch
`collect`        probes this machine and every node, the output folder and the tracking address
`checks`         pure functions from these reports to findings: cluster, code, versions, hardware
`shared_checks`  the same for what machines share: output folder, locks, data, weights, tracking
"""
