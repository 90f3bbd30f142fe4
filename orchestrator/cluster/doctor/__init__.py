"""What would keep a sweep from running well, told before it starts.

`records`    what a machine is asked, and what it says of itself
`probe`      the machine's answer, in plain Python; `heavy` is the part that needs torch, in a
             process of its own; `code` the fingerprints of the project's files
`tracking`   whether MLflow's address answers
`visit`      asks this machine and, with an address, every node of a cluster
`findings`   pure functions from the answers to lines: `software`, `machines`, `shared`
"""
