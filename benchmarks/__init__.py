"""Benchmarks: how fast lanyinglog is, alone and beside others, with the durability of each named.

In reading order: `question` (what is asked), `system` (whom), `runner` (fairly: the systems take turns in one run),
`samples` and `schedule` (what a figure means), `report` and `plots` (what people see). ``python benchmarks list``.
"""
