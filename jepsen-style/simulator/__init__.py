"""A whole cluster in one process: the product's own code under a virtual clock and one seeded random source.

Reading order

| file | what it owns |
|---|---|
| `schedule` | the virtual clock and the one queue of events |
| `plan` | what a seed decides: size, timing, workload, which faults and how often |
| `disk` | a data directory that outlives its node, and what befalls it |
| `network` | links between nodes and connections of clients: delay, loss, cuts, resets |
| `node` | one node: `LogCore` driven as `commit_loop` drives it, killed between any two steps |
| `doors` | the node's side of client connections: publishes and subscriptions |
| `producer`, `subscriber` | clients: the product's own pipeline, and readers that move between nodes |
| `faults` | what goes wrong, when |
| `invariants` | what must hold after every step: Raft's properties and the product's own rules |
| `ledger` | what was committed, and so what every reader must see |
| `history` | the trace of a run, its hash, and the part of it that explains a violation |
| `stack` | whole nodes on trio: loop and sessions too are the product's own, in a share of the runs |
| `world`, `ending` | one seed: the phases of a run, and what must be true at its end |
| `defects` | defects planted on purpose, to show that all this can fail |
| `command`, `scoreboard` | the program |
"""
