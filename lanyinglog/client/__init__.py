"""The client: async on anyio, for asyncio and trio alike, with a blocking twin in `blocking`.

Reading order: `producer` (the pipeline, without I/O) and `cursor` (a subscription's place, without I/O) hold the
promises; `link` is one connection, `leader` finds the node to talk to; `publisher` and `subscription` drive the two;
`client` is the door.
"""
