"""A node's settings: what they are, where they come from, and which of them make no sense.

Three places, the later one wins: a TOML file, the environment (``LANYINGLOG_`` and the key in capitals), flags. All
three use the same keys, and every complaint is a `ConfigError` that names the key and what it should be::

    node = "n1"                          # a-z 0-9 -, at most 32
    data = "/var/lib/lanyinglog/n1"
    client_listen = "127.0.0.1:7420"
    peer_listen = "127.0.0.1:7520"
    cluster = "orders"                   # nodes of another cluster are turned away
    secret_file = "cluster.secret"       # relative to this file; peers prove that they know it
    tls_cert = "n1.pem"                  # all three or none: every port speaks TLS, and both ends show a certificate
    tls_key = "n1.key"
    tls_ca = "ca.pem"
    metrics_listen = "127.0.0.1:9420"    # optional: HTTP with /metrics for Prometheus, and /ready
    heartbeat_s = 0.1
    election_timeout_s = 1.0
    join = false                         # true: this node is new and is to be added to a cluster that runs
    i_accept_an_open_unencrypted_port = false
    log_format = "auto"                  # text, json, or auto: text on a terminal, one JSON object a line elsewhere

    [peers]                              # every member, this one included; the log overrules it when members change
    n1 = "127.0.0.1:7520"
    n2 = "127.0.0.1:7521"

    [clients]                            # where clients reach members: this node's own is what it tells everybody,
    n1 = "127.0.0.1:7420"                # client_listen if it is not here; the others tell their own when they are met

    [limits]                             # see `Limits`
    connections_max = 1000

In the environment maps are written ``n1=127.0.0.1:7520,n2=127.0.0.1:7521``; a limit is ``LANYINGLOG_CONNECTIONS_MAX``.

Invariant (promise P10): no `NodeConfig` exists that binds beyond loopback without TLS unless ``open_network`` is set,
nor one that listens to peers there without a secret, nor one that tells others an address that means "all of mine". It
is checked where the value is made, so no way of making one gets around it.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import stat
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from lanyinglog.errors import ConfigError
from lanyinglog.tls import TlsFiles

ENVIRONMENT_PREFIX = "LANYINGLOG_"
CLIENT_PORT = 7420
PEER_PORT_OFFSET = 100
"""Peer ports count up from the first client port plus this."""
OPEN_NETWORK_KEY = "i_accept_an_open_unencrypted_port"
SECRET_BYTES_MIN = 16
SECRET_BYTES_MAX = 1024
TLS_KEYS = ("tls_cert", "tls_key", "tls_ca")
LOG_FORMATS = ("auto", "text", "json")
MEMBERS_MAX = 9
"""Every member costs each commit a message and a sync; more than nine voters make a log slower, not safer."""

_NEARLY = 0.9
"""How alike a variable of the environment and a key are when one must be a slip of the other: a letter or two."""

_NODE_ID = re.compile(r"[a-z0-9-]{1,32}")
_CLUSTER = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ZERO = re.compile(r"(?:0x)?0+(?:\.(?:0x)?0+){0,3}")  # what resolvers take for 0.0.0.0
_HOST = re.compile(r"[A-Za-z0-9_.:%-]{1,253}")


class Address(NamedTuple):
    """A TCP address; port 0 in a listen address lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it can only be reached from this machine. A name other than localhost counts as reachable."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for all addresses of a machine: to be bound, but not to be reached."""
        try:
            found = ipaddress.ip_address(self.host)
        except ValueError:
            return _ZERO.fullmatch(self.host) is not None
        return found.is_unspecified or (found.version == 6 and found.ipv4_mapped == ipaddress.IPv4Address(0))


CLIENT_LISTEN = Address("127.0.0.1", CLIENT_PORT)
PEER_LISTEN = Address("127.0.0.1", CLIENT_PORT + PEER_PORT_OFFSET)


_LIMIT_BOUNDS: dict[str, tuple[float, float]] = {
    # The batch that reaches it comes on top, and entry and batch have to fit the store's 4 MiB: with 1 MiB to spare.
    "entry_bytes_max": (1, 2 << 20),
    # Four times the reserve for a full disk (`store.room`), below which publishes are declined.
    "store_bytes_max": (32 << 20, 1 << 46),
    "entries_inflight_max": (1, 64),
}
"""Where a limit above 0 can still make no sense: least and most."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a node never exceeds, whoever asks (promise P8). Bytes and seconds; the sums are for the defaults."""

    connections_max: int = 1_000
    """Client connections; the next one is told `Busy` and closed."""
    connection_subscriptions_max: int = 64
    """Subscriptions of one connection."""
    connection_outbox_bytes_max: int = 1 << 20
    """Bytes framed for one client and not yet taken by its socket: x 1,000 connections is the worst case."""
    connection_inflight_batches_max: int = 1_024
    """Batches of one connection that wait for their acknowledgement; its next frame is read when one ends."""
    handshake_s_max: float = 10.0
    """From accept to a valid hello, and for any frame from its first byte to its last: ends a slow loris."""
    queue_bytes_max: int = 16 << 20
    """Batches of all producers that wait for an entry: 16 full batches of 1 MiB."""
    queue_batches_max: int = 16_384
    """The same, in batches."""
    entry_bytes_max: int = 1 << 20
    """Where a group commit stops taking more batches in (one batch always fits)."""
    entries_inflight_max: int = 4
    """Entries proposed and not yet committed."""
    hot_cache_bytes_max: int = 32 << 20
    """Newest entries kept in memory for subscribers and followers."""
    peer_outbox_bytes_max: int = 8 << 20
    """Bytes framed for one peer and not yet taken by its socket; a slow follower is then sent nothing more."""
    catch_up_bytes_s_max: int = 32 << 20
    """How fast a leader feeds each follower that is far behind, on top of twice what the log grows by."""
    store_bytes_max: int = 64 << 30
    """Address space of the store; the file grows as needed, a full one declines writes as a full disk does."""
    scrub_bytes_s_max: int = 1 << 20
    """How fast a node reads its log again to find damage, bytes a second: 1 MiB/s is 84 GiB a day."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ConfigError(f"{one.name} must be a number above 0, not {value!r}")
            least, most = _LIMIT_BOUNDS.get(one.name, (0, float("inf")))
            if not least <= value <= most:
                raise ConfigError(f"{one.name} must be {least} to {most}, not {value!r}")


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node, ready to run. ``peers`` has the peer address of every member, this node included.

    ``join``: it is no member yet, and has never been one under this name. ``clients`` has client addresses of members
    as far as they are known beforehand; each tells its own to the others (`advertised`).
    """

    node: str
    data: Path
    client_listen: Address = CLIENT_LISTEN
    peer_listen: Address = PEER_LISTEN
    peers: Mapping[str, Address] = field(default_factory=dict)
    clients: Mapping[str, Address] = field(default_factory=dict)
    metrics_listen: Address | None = None
    cluster: str = "lanyinglog"
    secret: bytes | None = field(default=None, repr=False)
    tls: TlsFiles | None = None
    open_network: bool = False
    join: bool = False
    heartbeat_s: float = 0.1
    election_timeout_s: float = 1.0
    log_format: str = "auto"
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        parse_node_id("node", self.node)
        object.__setattr__(self, "client_listen", Address(*self.client_listen))
        object.__setattr__(self, "peer_listen", Address(*self.peer_listen))
        if self.metrics_listen is not None:
            object.__setattr__(self, "metrics_listen", Address(*self.metrics_listen))
        own = self.peers or {self.node: self.peer_listen}
        object.__setattr__(self, "peers", {node: Address(*address) for node, address in own.items()})
        object.__setattr__(self, "clients", {node: Address(*address) for node, address in self.clients.items()})
        self._check_members()
        self._check_network()
        self._check_told()
        self._check_times()

    def _check_members(self) -> None:
        if self.node not in self.peers:
            raise ConfigError(
                f"peers must have every member, and {self.node!r} (this node) is not among {names(self.peers)}"
            )
        if len(self.peers) > MEMBERS_MAX:
            raise ConfigError(f"peers has {len(self.peers)} members; at most {MEMBERS_MAX} are allowed")
        if self.join and len(self.peers) < 2:
            raise ConfigError("join needs the members to be joined in peers")
        if len(set(self.peers.values())) < len(self.peers):
            raise ConfigError("peers gives two members the same address")
        strangers = set(self.clients) - set(self.peers)
        if strangers:
            raise ConfigError(f"clients names {names(strangers)}, which peers does not have")

    @property
    def advertised(self) -> Address:
        """Where clients are told to connect; port 0 is the one that the system chooses."""
        return self.clients.get(self.node, self.client_listen)

    def _check_network(self) -> None:
        for key, address in (("client_listen", self.client_listen), ("peer_listen", self.peer_listen)):
            if not address.is_loopback and self.tls is None and not self.open_network:
                raise ConfigError(
                    f"{key} = {address} can be reached from the network, and nothing is encrypted there and nobody"
                    f" authenticated: use 127.0.0.1, or set tls_cert, tls_key and tls_ca, or accept that with"
                    f" {OPEN_NETWORK_KEY} (flag --i-accept-an-open-unencrypted-port)"
                )
        if not self.peer_listen.is_loopback and self.secret is None:
            raise ConfigError(
                f"peer_listen = {self.peer_listen} can be reached from the network, and without a secret whoever does"
                " is a node: set secret_file, the same for all nodes (openssl rand -hex 32)"
            )

    def _check_told(self) -> None:
        for key, table in (("peers", self.peers), ("clients", {**self.clients, self.node: self.advertised})):
            for node, address in table.items():
                check_host(f"{key}.{node}", address)
                if address.is_wildcard:
                    raise ConfigError(
                        f"{address} is no address by which {node} can be reached from elsewhere: name the one that can"
                        f" under {key} (flag --{key} {node}=HOST:{address.port})"
                    )

    def _check_times(self) -> None:
        if not 0.005 <= self.heartbeat_s <= 10:
            raise ConfigError(f"heartbeat_s must be 0.005 to 10 seconds, not {self.heartbeat_s}")
        if not 3 * self.heartbeat_s <= self.election_timeout_s <= 60:
            raise ConfigError(
                f"election_timeout_s must be at least 3 heartbeats ({3 * self.heartbeat_s:g}) and at most 60 seconds,"
                f" not {self.election_timeout_s}"
            )


# ------------------------------------------------------------------------------------------------- reading values
def names(nodes: Mapping[str, object] | set[str]) -> str:
    """``nodes`` for a sentence: sorted, with commas."""
    return ", ".join(sorted(nodes)) or "none"


def parse_node_id(key: str, value: Any) -> str:
    """A node's name: a-z, 0-9 and -, 1 to 32 of them, because it becomes part of paths and log lines."""
    if not isinstance(value, str) or not _NODE_ID.fullmatch(value):
        raise ConfigError(f"{key} must be 1 to 32 of a-z 0-9 -, not {value!r}")
    return value


def parse_address(key: str, value: Any, *, default_port: int | None = None) -> Address:
    """``host:port``, ``[v6]:port`` or a pair; ``host`` alone where there is a default port."""
    if isinstance(value, tuple) and len(value) == 2:
        host, port_text = value[0], str(value[1])
    elif isinstance(value, str):
        host, port_text = _split_address(value.strip())
    else:
        raise ConfigError(f"{key} must be host:port, not {value!r}")
    if not port_text and default_port is not None:
        port_text = str(default_port)
    if not _HOST.fullmatch(host) or not re.fullmatch(r"[0-9]{1,5}", port_text) or int(port_text) > 65_535:
        raise ConfigError(f"{key} must be host:port with a port of at most 65535, not {value!r}")
    return Address(host, int(port_text))


def check_host(key: str, address: Address) -> None:
    """`ConfigError` for a host that no resolver can be asked for: an empty label, or one of more than 63 characters.
    What is written into a log is dialled by every node for ever, so it is looked at before."""
    try:
        address.host.encode("idna")
    except UnicodeError as error:
        raise ConfigError(f"{key} = {address} has no name of a host: {error}") from error


def _split_address(text: str) -> tuple[str, str]:
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", text)
    if bracketed:
        return bracketed[1], bracketed[2] or ""
    host, _, port = text.partition(":")
    return host, port


def parse_addresses(key: str, value: Any, *, default_port: int | None = None) -> tuple[Address, ...]:
    """``host:port[,host:port...]``, at least one."""
    parts = [part for part in str(value).split(",") if part.strip()]
    if not parts:
        raise ConfigError(f"{key} must be host:port[,host:port...], not {value!r}")
    return tuple(parse_address(key, part, default_port=default_port) for part in parts)


def parse_members(key: str, value: Any) -> dict[str, Address]:
    """A table of node -> ``host:port``, or ``n1=host:port,n2=host:port``."""
    if isinstance(value, str):
        pairs = [part.partition("=")[::2] for part in value.split(",") if part.strip()]
    elif isinstance(value, Mapping):
        pairs = list(value.items())
    else:
        raise ConfigError(f"{key} must be a table of node = host:port, not {value!r}")
    members: dict[str, Address] = {}
    for node, address in pairs:
        node = parse_node_id(key, node.strip())
        if node in members:
            raise ConfigError(f"{key} names {node} twice")
        members[node] = parse_address(f"{key}.{node}", address)
    return members


def _parse_path(key: str, value: Any) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ConfigError(f"{key} must be a path, not {value!r}")
    return Path(value).expanduser()


def _parse_cluster(key: str, value: Any) -> str:
    if not isinstance(value, str) or not _CLUSTER.fullmatch(value):
        raise ConfigError(f"{key} must be 1 to 64 of A-Z a-z 0-9 . _ -, not {value!r}")
    return value


def _parse_number(key: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{key} must be a number, not {value!r}") from None
    if isinstance(value, bool) or not 0 < number < float("inf"):
        raise ConfigError(f"{key} must be a number above 0, not {value!r}")
    return number


def _parse_log_format(key: str, value: Any) -> str:
    if value not in LOG_FORMATS:
        raise ConfigError(f"{key} must be {', '.join(LOG_FORMATS[:-1])} or {LOG_FORMATS[-1]}, not {value!r}")
    return str(value)


def _parse_switch(key: str, value: Any) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}
    answer = words.get(str(value).lower())
    if answer is None:
        raise ConfigError(f"{key} must be true or false, not {value!r}")
    return answer


def read_secret(key: str, path: Path) -> bytes:
    """The shared secret in ``path``, without surrounding white space; 16 bytes or more, and private to its owner."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            secret = file.read(SECRET_BYTES_MAX + 1).strip()
    except OSError as error:
        raise ConfigError(f"{key}: {path} can't be read: {error.strerror}") from error
    if mode & 0o007:
        raise ConfigError(f"{key}: {path} is open to every user of this machine (mode {mode:o}): chmod 600 it")
    if not SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX:
        raise ConfigError(f"{key}: {path} must hold {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes, not {len(secret)}")
    return secret


def tls_files(paths: Sequence[Path | None]) -> TlsFiles | None:
    """What is given for `TLS_KEYS`, in their order; None if nothing is. `ConfigError` for some of them only."""
    missing = [key for key, path in zip(TLS_KEYS, paths, strict=True) if path is None]
    if missing and len(missing) < len(TLS_KEYS):
        raise ConfigError(f"{' and '.join(missing)} not set: TLS needs {', '.join(TLS_KEYS)}")
    cert, key, ca = paths
    return None if cert is None or key is None or ca is None else TlsFiles(cert, key, ca)


# --------------------------------------------------------------------------------------------- reading settings
_SETTINGS: dict[str, Callable[[str, Any], Any]] = {
    "node": parse_node_id,
    "data": _parse_path,
    "client_listen": parse_address,
    "peer_listen": parse_address,
    "peers": parse_members,
    "clients": parse_members,
    "metrics_listen": parse_address,
    "cluster": _parse_cluster,
    "secret_file": _parse_path,
    "tls_cert": _parse_path,
    "tls_key": _parse_path,
    "tls_ca": _parse_path,
    OPEN_NETWORK_KEY: _parse_switch,
    "join": _parse_switch,
    "heartbeat_s": _parse_number,
    "election_timeout_s": _parse_number,
    "log_format": _parse_log_format,
}
SETTING_KEYS = tuple(_SETTINGS)
"""The keys that say which node this is and whom it talks to; the rest are limits."""
_LIMITS: dict[str, type] = {one.name: type(one.default) for one in fields(Limits)}


def load_node_config(
    file: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> NodeConfig:
    """The settings in ``file``, overruled by ``environ`` and then by ``flags`` (key -> value, None for not given).

    Raises `ConfigError`, which names the place and the key. An unknown key is an error, not ignored: it is a typing
    mistake, and the value its author believes in would not be in force.
    """
    settings: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    if file is not None:
        settings, limits = _from_file(file)
    for key in (*_SETTINGS, *_LIMITS):
        text = (environ or {}).get(ENVIRONMENT_PREFIX + key.upper())
        if text is not None:
            (settings if key in _SETTINGS else limits)[key] = _parsed("environment", key, text)
    _refuse_misspelt(environ or {})
    for key, value in (flags or {}).items():
        if value is not None:
            (settings if key in _SETTINGS else limits)[key] = _parsed("flags", key, value)
    return _node_config(settings, limits)


def _from_file(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    table = document.pop("limits", {})
    if not isinstance(table, dict):
        raise ConfigError(f"{file}: limits must be a table")
    settings = {key: _parsed(str(file), key, value, _SETTINGS) for key, value in document.items()}
    limits = {key: _parsed(str(file), key, value, _LIMITS) for key, value in table.items()}
    for key in ("data", "secret_file", *TLS_KEYS):
        if key in settings:
            settings[key] = file.parent / settings[key]
    return settings, limits


def _refuse_misspelt(environ: Mapping[str, str]) -> None:
    """`ConfigError` for a variable that is no key but nearly one. Others are not ours to judge: the options of other
    verbs have variables too."""
    known = [ENVIRONMENT_PREFIX + key.upper() for key in (*_SETTINGS, *_LIMITS)]
    for name in environ:
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, 1, cutoff=_NEARLY)
            if near and not name.startswith(near[0]):
                raise ConfigError(f"environment: unknown variable {name}; did you mean {near[0]}?")


def _parsed(place: str, key: str, value: Any, allowed: Mapping[str, object] | None = None) -> Any:
    known = {**_SETTINGS, **_LIMITS} if allowed is None else allowed
    if key not in known:
        near = difflib.get_close_matches(key, known, 1, cutoff=0.75)
        raise ConfigError(
            f"{place}: unknown key {key!r}; "
            + (f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}")
        )
    try:
        if key in _SETTINGS:
            return _SETTINGS[key](key, value)
        number = _parse_number(key, value)
        if _LIMITS[key] is int and number != int(number):
            raise ConfigError(f"{key} must be a whole number, not {value!r}")
        return _LIMITS[key](number)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.message}") from None


def _node_config(settings: dict[str, Any], limits: dict[str, Any]) -> NodeConfig:
    for key in ("node", "data"):
        if key not in settings:
            raise ConfigError(f"{key} is not set (flag, {ENVIRONMENT_PREFIX}{key.upper()}, or {key} = ... in the file)")
    node = settings["node"]
    if "peer_listen" not in settings and node in settings.get("peers", {}):
        settings["peer_listen"] = settings["peers"][node]
    for key in ("peers", "clients"):
        for member, address in settings.get(key, {}).items():
            if address.port == 0:
                raise ConfigError(f"{key}.{member} needs a port that others can connect to, not 0")
    secret_file = settings.pop("secret_file", None)
    secret = read_secret("secret_file", secret_file) if secret_file is not None else None
    tls = tls_files([settings.pop(key, None) for key in TLS_KEYS])
    open_network = settings.pop(OPEN_NETWORK_KEY, False)
    return NodeConfig(**settings, secret=secret, tls=tls, open_network=open_network, limits=Limits(**limits))
