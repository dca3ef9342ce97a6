"""Real node processes, real faults, a recorded history, checkers and a report: ``python jepsen-style run``.

Read in this order: `runner` (the life of a run), `sandbox` (where it lives), `cluster` (the nodes), `links` and
`relay` (the network between them), `faults` (what is done to them), `workloads` (who uses them meanwhile), `history`
(what is written down), `checkers` (what is concluded), `report` (how it is told). docs/jepsen-style.md is the manual.
"""
