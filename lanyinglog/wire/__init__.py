"""Bytes in, events out: the protocol of clients and peers, without a socket."""
