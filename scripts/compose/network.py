"""Networks as bridges in a namespace of the project, services as namespaces that hang on them.

All of it lies within the supervisor's own network namespace: the host's interfaces and routes are not touched, and the
kernel removes everything when the supervisor ends. No bridge has an address and nothing is forwarded, so a service
reaches the networks that it is in, and nothing else.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from compose.errors import ComposeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from compose.model import Project, Service

_FIRST_HOST = 10


@dataclass(slots=True)
class Plan:
    """Addresses of a project. ``address[service][network]``; networks are 10.211.N.0/24 in the file's order."""

    bridges: dict[str, str] = field(default_factory=dict)
    address: dict[str, dict[str, str]] = field(default_factory=dict)
    interfaces: dict[tuple[str, str], str] = field(default_factory=dict)


def planned(project: Project) -> Plan:
    """Every service has its address from the beginning, whether it is started or not.

    Raises:
      ComposeError: more networks or services than there is room for.
    """
    if len(project.networks) > 250 or len(project.services) > 240:
        raise ComposeError("more than 250 networks or 240 services")
    plan = Plan()
    for number, name in enumerate(project.networks):
        plan.bridges[name] = f"br{number}"
        for host, service in enumerate(project.services.values()):
            if name in service.networks:
                plan.address.setdefault(service.name, {})[name] = f"10.211.{number}.{_FIRST_HOST + host}"
                plan.interfaces[service.name, name] = f"v{number}-{host}"
    return plan


def hosts_file(plan: Plan, project: Project, service: Service) -> str:
    """Names that ``service`` can look up: its own, and those of services in the networks that it is in."""
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    for network in service.networks:
        for other in project.services.values():
            if network in other.networks:
                names = [*other.networks[network], other.name]
                lines.append(f"{plan.address[other.name][network]} {' '.join(names)}")
    return "\n".join(lines) + "\n"


def make_bridges(plan: Plan) -> None:
    """The networks; nobody is in them yet."""
    lines = ["link set lo up"]
    for bridge in plan.bridges.values():
        lines += [f"link add {bridge} type bridge forward_delay 0", f"link set {bridge} up"]
    _ip(lines)


def join(plan: Plan, services: Iterable[Service]) -> None:
    """A namespace for each service, with an interface in each of its networks."""
    outside: list[str] = []
    inside: dict[str, list[str]] = {}
    for service in services:
        outside.append(f"netns add {service.name}")
        inside[service.name] = ["link set lo up"]
        for number, network in enumerate(service.networks):
            ours = plan.interfaces[service.name, network]
            outside.append(f"link add {ours} type veth peer name eth{number} netns {service.name}")
            outside.append(f"link set {ours} master {plan.bridges[network]} up")
            address = plan.address[service.name][network]
            inside[service.name] += [f"address add {address}/24 dev eth{number}", f"link set eth{number} up"]
    _ip([line for line in outside if line.startswith("netns")], one_by_one=True)
    _ip([line for line in outside if not line.startswith("netns")])
    for name, lines in inside.items():
        _ip(lines, namespace=name)


def _ip(lines: list[str], *, namespace: str | None = None, one_by_one: bool = False) -> None:
    where = ["-n", namespace] if namespace else []
    if one_by_one:
        for line in lines:
            _run(["ip", *where, *line.split()], "")
    elif lines:
        _run(["ip", *where, "-batch", "-"], "\n".join(lines) + "\n")


def _run(command: list[str], text: str) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ComposeError(f"{' '.join(command[:4])}: {done.stderr.strip()}")


def namespaces(project: Project) -> Mapping[str, str]:
    """Where the namespace of each service can be opened."""
    return {name: f"/run/netns/{name}" for name in project.services}
