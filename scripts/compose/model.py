"""A docker-compose.yml as records. Every key is understood or refused; none is passed over in silence."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from compose.errors import ComposeError
from compose.interpolate import interpolated

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CONDITIONS = ("service_started", "service_healthy", "service_completed_successfully")
NOT_EMULATED = {
    "mem_limit": "no memory limit",
    "pids_limit": "no limit of processes",
    "shm_size": "shared memory as the host has it",
    "security_opt": "no-new-privileges alone",
    "ports": "nothing is published on the host; use exec",
    "build": "no image; a wheel of what the Dockerfile copies, on this machine and its Python",
    "logging": "one plain file a service, not rotated",
}
"""Keys that are read and have no effect, or another one; ``up`` says so."""

_SERVICE_KEYS = {
    "image", "command", "entrypoint", "environment", "volumes", "networks", "network_mode", "depends_on",
    "healthcheck", "init", "read_only", "user", "cap_drop", "tmpfs", "stop_grace_period", "stop_signal", "restart",
    "profiles", "working_dir", *NOT_EMULATED,
}  # fmt: skip
_HEALTH_KEYS = {"test", "interval", "timeout", "retries", "start_period"}
_MOUNT_KEYS = {"type", "source", "target", "read_only"}
_SIGNALS = {"SIGTERM", "SIGINT", "SIGQUIT", "SIGKILL"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """A health check; times in seconds."""

    test: tuple[str, ...]
    interval_s: float = 30.0
    timeout_s: float = 30.0
    retries: int = 3
    start_period_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A named volume (``source`` a name) or a file or folder of the host (``source`` absolute)."""

    kind: str
    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service; ``networks`` maps each network to the further names that the service has there."""

    name: str
    image: str
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    tmpfs: tuple[str, ...] = ()
    networks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    depends_on: Mapping[str, str] = field(default_factory=dict)
    health: Health | None = None
    profiles: frozenset[str] = frozenset()
    user: str = ""
    working_dir: str = ""
    read_only: bool = False
    init: bool = False
    drops_capabilities: bool = False
    restart: str = "no"
    most_restarts: int | None = None
    stop_signal: str = "SIGTERM"
    stop_grace_s: float = 10.0
    not_emulated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A whole file. ``networks`` maps a name to whether it is internal."""

    path: Path
    services: Mapping[str, Service]
    networks: Mapping[str, bool]
    volumes: frozenset[str]

    def enabled(self, profiles: Iterable[str]) -> list[str]:
        """Services without a profile and those of ``profiles``, each after what it depends on."""
        wanted = set(profiles)
        return self.ordered([n for n, s in self.services.items() if not s.profiles or s.profiles & wanted])

    def ordered(self, names: Iterable[str]) -> list[str]:
        """``names`` and all that they depend on, each after what it depends on.

        Raises:
          ComposeError: services depend on each other in a circle.
        """
        done: dict[str, None] = {}

        def visit(name: str, path: tuple[str, ...]) -> None:
            if name in path:
                raise ComposeError(f"a circle of depends_on: {' -> '.join([*path, name])}")
            if name not in done:
                for other in self.services[name].depends_on:
                    visit(other, (*path, name))
                done[name] = None

        for name in names:
            visit(name, ())
        return list(done)


def load(path: Path, environment: Mapping[str, str]) -> Project:
    """Read a file.

    Args:
      path: docker-compose.yml; relative sources are taken from its folder.
      environment: for ``${NAME}``.

    Raises:
      ComposeError: what it is and where.
    """
    try:
        raw = parsed(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as e:
        raise ComposeError(f"{path}: {e}") from e
    raw = {key: value for key, value in _table(raw, "the file").items() if not key.startswith("x-")}
    raw = interpolated(raw, environment)
    _check_keys(raw, {"services", "networks", "volumes"}, "the file")
    networks = {}
    for name, row in _table(raw.get("networks"), "networks").items():
        row = _table(row, f"networks.{name}")
        _check_keys(row, {"internal"}, f"networks.{name}")
        networks[name] = bool(row.get("internal", False))
    volumes = frozenset(_table(raw.get("volumes"), "volumes"))
    for name, row in _table(raw.get("volumes"), "volumes").items():
        _check_keys(_table(row, f"volumes.{name}"), set(), f"volumes.{name}")
    services = {
        name: _service(name, _table(row, f"services.{name}"), path.parent.resolve())
        for name, row in _table(raw.get("services"), "services").items()
    }
    project = Project(path=path, services=services, networks=networks, volumes=volumes)
    _check_names(project)
    project.ordered(services)
    return project


def parsed(text: str) -> Any:  # noqa: ANN401 - any YAML
    """YAML as plain values, by the fast safe loader where there is one."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _check_names(project: Project) -> None:
    for service in project.services.values():
        where = f"services.{service.name}"
        for name in service.networks:
            if name not in project.networks:
                raise ComposeError(f"{where}.networks: there is no network {name}")
        for name in service.depends_on:
            if name not in project.services:
                raise ComposeError(f"{where}.depends_on: there is no service {name}")
        for mount in service.mounts:
            if mount.kind == "volume" and mount.source not in project.volumes:
                raise ComposeError(f"{where}.volumes: there is no volume {mount.source}")


def _service(name: str, row: dict[str, Any], folder: Path) -> Service:
    where = f"services.{name}"
    _check_keys(row, _SERVICE_KEYS, where)
    if not isinstance(row.get("image"), str):
        raise ComposeError(f"{where}: no image")
    if "networks" in row and "network_mode" in row:
        raise ComposeError(f"{where}: networks and network_mode exclude each other")
    if row.get("network_mode", "none") != "none":
        raise ComposeError(f"{where}.network_mode: only none is understood")
    if row.get("cap_drop", ["ALL"]) != ["ALL"]:
        raise ComposeError(f"{where}.cap_drop: only [ALL] is understood")
    policy, _, count = str(row.get("restart", "no")).partition(":")
    if policy not in {"no", "unless-stopped", "always", "on-failure"} or (count and not count.isdigit()):
        raise ComposeError(f"{where}.restart: {row['restart']!r} is not understood")
    stop_signal = str(row.get("stop_signal", "SIGTERM"))
    if stop_signal not in _SIGNALS:
        raise ComposeError(f"{where}.stop_signal: {stop_signal} is none of {', '.join(sorted(_SIGNALS))}")
    return Service(
        name=name,
        image=row["image"],
        command=_words(row.get("command"), f"{where}.command"),
        entrypoint=_words(row.get("entrypoint"), f"{where}.entrypoint"),
        environment=_environment(row.get("environment"), f"{where}.environment"),
        mounts=tuple(_mount(m, folder, f"{where}.volumes") for m in _list(row.get("volumes"), where)),
        tmpfs=tuple(str(t) for t in _list(row.get("tmpfs"), where)),
        networks=_networks(row.get("networks"), where),
        depends_on=_depends_on(row.get("depends_on"), f"{where}.depends_on"),
        health=_health(row["healthcheck"], f"{where}.healthcheck") if "healthcheck" in row else None,
        profiles=frozenset(_list(row.get("profiles"), where)),
        user=str(row.get("user", "")),
        working_dir=str(row.get("working_dir", "")),
        read_only=bool(row.get("read_only", False)),
        init=bool(row.get("init", False)),
        drops_capabilities="cap_drop" in row,
        restart=policy,
        most_restarts=int(count) if count else None,
        stop_signal=stop_signal,
        stop_grace_s=seconds(row.get("stop_grace_period", "10s"), f"{where}.stop_grace_period"),
        not_emulated=tuple(sorted(set(row) & set(NOT_EMULATED))),
    )


def _networks(value: Any, where: str) -> dict[str, tuple[str, ...]]:  # noqa: ANN401
    if value is None:
        return {}
    if isinstance(value, list):
        return {str(name): () for name in value}
    found = {}
    for name, row in _table(value, f"{where}.networks").items():
        row = _table(row, f"{where}.networks.{name}")
        _check_keys(row, {"aliases"}, f"{where}.networks.{name}")
        found[name] = tuple(row.get("aliases", ()))
    return found


def _depends_on(value: Any, where: str) -> dict[str, str]:  # noqa: ANN401
    if isinstance(value, list):
        return {str(name): "service_started" for name in value}
    found = {}
    for name, row in _table(value, where).items():
        row = _table(row, f"{where}.{name}")
        _check_keys(row, {"condition"}, f"{where}.{name}")
        condition = row.get("condition", "service_started")
        if condition not in CONDITIONS:
            raise ComposeError(f"{where}.{name}: {condition} is none of {', '.join(CONDITIONS)}")
        found[name] = condition
    return found


def _environment(value: Any, where: str) -> dict[str, str]:  # noqa: ANN401
    if isinstance(value, list):
        value = dict(str(item).split("=", 1) for item in value)
    return {key: "" if item is None else str(item) for key, item in _table(value, where).items()}


def _mount(value: Any, folder: Path, where: str) -> Mount:  # noqa: ANN401
    if not isinstance(value, dict):
        raise ComposeError(f"{where}: {value!r}: write type, source, target, read_only")
    _check_keys(value, _MOUNT_KEYS, where)
    kind, source = value.get("type"), str(value.get("source", ""))
    if kind not in {"bind", "volume"} or not source:
        raise ComposeError(f"{where}: {value!r} is neither a bind nor a named volume")
    if kind == "bind":
        source = str((folder / Path(source).expanduser()).resolve())
    return Mount(
        kind=kind, source=source, target=str(value["target"]), read_only=bool(value.get("read_only", False))
    )


def _health(value: Any, where: str) -> Health:  # noqa: ANN401
    row = _table(value, where)
    _check_keys(row, _HEALTH_KEYS, where)
    test = row.get("test")
    if not isinstance(test, list) or not test or test[0] not in {"CMD", "CMD-SHELL"}:
        raise ComposeError(f"{where}.test: write a list that begins with CMD or CMD-SHELL")
    words = tuple(str(word) for word in test[1:])
    return Health(
        test=words if test[0] == "CMD" else ("sh", "-c", *words),
        interval_s=seconds(row.get("interval", "30s"), where),
        timeout_s=seconds(row.get("timeout", "30s"), where),
        retries=int(row.get("retries", 3)),
        start_period_s=seconds(row.get("start_period", "0s"), where),
    )


def seconds(value: object, where: str) -> float:
    """``1m30s``, ``500ms`` or a number of seconds.

    Raises:
      ComposeError: it is no duration.
    """
    text = str(value)
    if text.isdigit():
        return float(text)
    if not re.fullmatch(r"(?:\d+(?:\.\d+)?(?:ms|[hms]))+", text):
        raise ComposeError(f"{where}: {text!r} is no duration such as 1m30s")
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(float(n) * units[unit] for n, unit in re.findall(r"(\d+(?:\.\d+)?)(ms|[hms])", text))


def _words(value: Any, where: str) -> tuple[str, ...] | None:  # noqa: ANN401
    if value is None:
        return None
    if not isinstance(value, list):
        raise ComposeError(f"{where}: write a list of words, not a line for a shell")
    return tuple(str(word) for word in value)


def _table(value: Any, where: str) -> dict[str, Any]:  # noqa: ANN401
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ComposeError(f"{where}: expected a mapping, not {value!r}")
    return value


def _list(value: Any, where: str) -> list[Any]:  # noqa: ANN401
    if value is not None and not isinstance(value, list):
        raise ComposeError(f"{where}: expected a list, not {value!r}")
    return value or []


def _check_keys(row: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(key for key in row if key not in known)
    if unknown:
        raise ComposeError(f"{where}: not understood here: {', '.join(unknown)}")
