"""HTTP beside the log: what a node tells those who watch it. `http` serves, `metrics` says what there is to see.

It needs the extra ``metrics`` (h11, prometheus-client), and is imported only where ``metrics_listen`` is set: a node
without it carries none of this.
"""
