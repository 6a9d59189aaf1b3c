"""The doctor at a data owner's home."""

from __future__ import annotations

import datetime
import ssl
from typing import TYPE_CHECKING

from cryptography import x509

from client.enrolment import FOLDER as IDENTITY
from client.enrolment import certificate_end, needs_renewal
from client.ledger import ClientLedger
from client.policy import load_policy
from client.service import load_join_file
from client.whoami import recall
from motet.doctor import machine
from motet.doctor.checks import check_certificate, check_modes, check_skew
from motet.doctor.findings import Finding, failure, ok, warning
from motet.errors import MotetError
from motet.identity import CERTIFICATE, load_identity
from motet.ports import split_address

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def look(home: Path, *, join: Path | None = None, policy: Path | None = None) -> Iterator[Finding]:
    """Everything about a client's home.

    Args:
      home: of the client.
      join: join.json from the coordinator; ``join.json`` in the home by default.
      policy: the owner's; by default that of the last start, or ``policy.toml`` in the home.
    """
    yield machine.disk(home)
    secrets = ("client.key", "lineages.key", "key.pem", "identity/key.pem")
    yield from check_modes(machine.modes(home / name for name in secrets))
    if not (home / "client.key").exists():
        yield failure("key", home / "client.key", "missing", f"motet client init --home {home}")
    yield from _identity(home)
    yield _ledger(home)
    yield _policy(home, policy)
    yield from _coordinator(home, join)
    yield from machine.models(machine.fetched_models())


def _identity(home: Path) -> Iterator[Finding]:
    """Of an enrolled client; one that was registered by its public key has none and needs none."""
    folder = home / IDENTITY
    if not (folder / CERTIFICATE).exists():
        return
    now = datetime.datetime.now(datetime.UTC)
    try:
        identity = load_identity(folder, now=now)
    except MotetError as e:
        yield failure("identity", folder, e.message, e.hint)
        return
    left = (certificate_end(identity) - now) / datetime.timedelta(days=1)
    if needs_renewal(identity, now):
        told = f"the certificate of {identity.name} ends in {left:.1f} days and was not renewed by itself"
        yield warning("identity", folder, told, f"motet client renew --home {home}")
        return
    yield ok("identity", folder, f"{identity.name} of {identity.federation}, {left:.0f} days left")


def _ledger(home: Path) -> Finding:
    path = home / "ledger.jsonl"
    try:
        charges = ClientLedger(path).charges()
    except MotetError as e:
        return failure("ledger", path, e.message, e.hint)
    return ok("ledger", path, f"a whole chain with {len(charges)} charges")


def _policy(home: Path, given: Path | None) -> Finding:
    path = given or recall(home).policy or home / "policy.toml"
    if given is None and path == home / "policy.toml" and not path.exists():
        return warning(
            "policy",
            path,
            "none is named: every recipe is answered",
            "write one and name it: motet client start --policy FILE; motet doctor --policy FILE checks it",
        )
    try:
        policy = load_policy(path)
    except MotetError as e:
        return failure("policy", path, e.message.removeprefix(f"{path}: "), e.hint)
    cap = "no cap on epsilon" if policy.max_epsilon is None else f"epsilon at most {policy.max_epsilon:g}"
    return ok("policy", path, cap)


def _coordinator(home: Path, given: Path | None) -> Iterator[Finding]:
    path = given or home / "join.json"
    if given is None and not path.exists():
        yield warning("coordinator", path, "not looked for", "motet doctor --join join.json")
        return
    try:
        join = load_join_file(path)
        authority = x509.load_pem_x509_certificate(join.ca.encode())
        split_address(join.address)
    except (MotetError, ValueError) as e:
        yield failure("coordinator", path, str(e), "ask the operator for join.json")
        return
    now = datetime.datetime.now(datetime.UTC)
    yield from check_certificate(
        str(path), authority, authority, now, mend="ask the operator for the new join.json"
    )
    try:
        met = machine.meet(join.address, join.ca)
    except ssl.SSLCertVerificationError as e:
        yield failure(
            "coordinator",
            join.address,
            f"it is not the coordinator of {path.name}, or its certificate has ended: {e.verify_message}",
            "ask the operator whether the coordinator was set up anew; do not train for another one",
        )
        return
    except OSError as e:
        why = e.strerror or str(e) or type(e).__name__
        yield failure(
            "coordinator", join.address, f"does not answer: {why}", "check address, firewall and that it runs"
        )
        return
    yield ok("coordinator", join.address, "answers, with a certificate of the authority in join.json")
    yield from check_certificate(
        join.address, met.certificate, authority, now, mend="the operator restarts the coordinator"
    )
    if met.skew_s is not None:
        yield check_skew(join.address, met.skew_s)
