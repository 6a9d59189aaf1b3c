"""Decisions of the doctor, from facts that the caller brings: no file, no socket, no clock."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature

from motet.doctor.findings import Finding, failure, ok, warning

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography import x509

LEAST_BYTES, FEW_BYTES = 200_000_000, 2_000_000_000
SKEW_S, GREAT_SKEW_S = 30.0, 300.0  # certificates allow five minutes
RENEW_DAYS = 14.0


def check_python(version: tuple[int, int], least: tuple[int, int]) -> Finding:
    """Whether Python is new enough."""
    text = ".".join(map(str, version))
    if version < least:
        told = ".".join(map(str, least))
        return failure(
            "python", "python", f"{text}; Motet needs {told} or newer", f"make setup PYTHON=python{told}"
        )
    return ok("python", "python", text)


def check_versions(installed: Mapping[str, str | None], ranges: Mapping[str, str]) -> list[Finding]:
    """Packages against the ranges that were tested; one finding for all that are right.

    Args:
      installed: package -> version, None where it is missing.
      ranges: package -> ``>=A,<B``.
    """
    findings = []
    for name, wanted in ranges.items():
        version = installed.get(name)
        mend = f"pip install '{name}{wanted}'"
        if version is None:
            findings.append(failure("versions", name, f"not installed; tested is {wanted}", mend))
        elif not is_within(version, wanted):
            findings.append(
                failure("versions", name, f"{version} is outside of what was tested, {wanted}", mend)
            )
    if not findings:
        findings.append(ok("versions", "packages", f"{len(ranges)} packages as tested"))
    return findings


def is_within(version: str, wanted: str) -> bool:
    """Whether a version is in a range of ``>=`` and ``<`` parts; only its numbers count."""
    number = _numbers(version)
    for part in wanted.split(","):
        if part.startswith(">=") and number < _numbers(part[2:]):
            return False
        if part.startswith("<") and number >= _numbers(part[1:]):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    found: list[int] = []
    for part in version.split("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits))
        if digits != part:
            break
    while found and found[-1] == 0:
        found.pop()
    return tuple(found)


def check_disk(where: str, free: int, total: int) -> Finding:
    """Whether rounds can be written, in bytes."""
    told = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    if free < LEAST_BYTES:
        return failure(
            "disk", where, told, f"free space there; motet coordinator gc --home {where} shows what can go"
        )
    if free < FEW_BYTES:
        return warning("disk", where, told, f"motet coordinator gc --home {where} --dry-run")
    return ok("disk", where, told)


def check_modes(modes: Mapping[str, int | None]) -> list[Finding]:
    """Secrets that others may read.

    Args:
      modes: path -> permission bits; None where the file is missing.
    """
    findings = [
        failure("secrets", path, f"mode {mode & 0o777:o}: others may read this secret", f"chmod 600 {path}")
        for path, mode in modes.items()
        if mode is not None and mode & 0o077
    ]
    there = sum(mode is not None for mode in modes.values())
    return findings or [ok("secrets", "files", f"{there} secrets are readable by their owner alone")]


def check_certificate(
    where: str, certificate: x509.Certificate, issuer: x509.Certificate, now: datetime.datetime, *, mend: str
) -> list[Finding]:
    """Dates and signature.

    Args:
      where: its file or address.
      certificate: to be checked.
      issuer: who should have signed it; the same for an authority.
      now: timezone-aware.
      mend: what renews it.
    """
    left = (certificate.not_valid_after_utc - now) / datetime.timedelta(days=1)
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return [failure("certificates", where, "not signed by the federation's authority", mend)]
    if now < certificate.not_valid_before_utc:
        return [
            failure(
                "certificates",
                where,
                f"begins on {certificate.not_valid_before_utc:%Y-%m-%d}",
                "set the clock",
            )
        ]
    if left <= 0:
        return [failure("certificates", where, f"ended on {certificate.not_valid_after_utc:%Y-%m-%d}", mend)]
    if left < RENEW_DAYS:
        return [warning("certificates", where, f"ends in {left:.1f} days", mend)]
    return [ok("certificates", where, f"in date, {left:.0f} days left")]


def check_skew(where: str, skew_s: float) -> Finding:
    """How far this clock is from another, seconds; positive is ahead of it."""
    told = f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} it"
    mend = "timedatectl set-ntp true"
    if abs(skew_s) >= GREAT_SKEW_S:
        return failure("clock", where, f"{told}: certificates and messages will be refused", mend)
    if abs(skew_s) >= SKEW_S:
        return warning("clock", where, told, mend)
    return ok("clock", where, f"within {SKEW_S:.0f} s")


def check_last_entry(where: str, now: float, last_at: float | None) -> Finding:
    """Whether the clock went back behind what was recorded; seconds since the epoch."""
    if last_at is not None and now < last_at - SKEW_S:
        return failure(
            "clock",
            where,
            f"this clock is {last_at - now:.0f} s behind the newest entry of the ledger",
            "timedatectl set-ntp true",
        )
    return ok("clock", where, "not behind the ledger")


def check_model(name: str, where: str, sha256: str | None, wanted: str) -> Finding:
    """A model file against its pinned hash; None where there is no file."""
    mend = f"motet materials fetch {name}"
    if sha256 is None:
        return failure("models", where, f"{name} is not on this machine", mend)
    if sha256 != wanted:
        told = f"{name} has SHA-256 {sha256[:12]}, tested is {wanted[:12]}"
        return failure("models", where, told, f"rm -r {where.rsplit('/', 1)[0]} && {mend}")
    return ok("models", where, f"{name}, as pinned")


def check_revision(where: str, current: str | None, known: Sequence[str], home: str) -> Finding:
    """The database's revision against those of this version of Motet, oldest first."""
    newest = known[-1]
    if current == newest:
        return ok("database", where, f"revision {current}")
    if current is None:
        return failure("database", where, "no tables of Motet", f"motet coordinator start --home {home}")
    if current not in known:
        return failure(
            "database",
            where,
            f"revision {current} is of a newer Motet; this one knows {newest}",
            "pip install -U motet",
        )
    return warning(
        "database",
        where,
        f"revision {current}, the newest is {newest}; the next start upgrades it",
        f"motet backup --home {home} --out before-upgrade.motet",
    )


def check_port(address: str, *, is_running: bool, is_free: bool, is_answering: bool, home: str) -> Finding:
    """The coordinator's address: answering while it runs, free while it does not."""
    start = (
        f"start it with the options that it had: motet coordinator start --home {home} --listen {address} ..."
    )
    if is_running:
        if is_answering:
            return ok("port", address, "answers")
        return failure("port", address, "the coordinator runs and does not answer", f"see {home}/gateway.log")
    if not is_free:
        return failure(
            "port", address, "taken by another process", f"ss -ltnp 'sport = :{address.rsplit(':', 1)[-1]}'"
        )
    return ok("port", address, f"free; the coordinator is not running ({start})")


def check_processes(
    home: str, *, is_running: bool, flower: Mapping[int, str], coordinator: int | None
) -> list[Finding]:
    """Flower's and our children of a home.

    Args:
      home: the coordinator's state folder.
      is_running: whether a coordinator works there.
      flower: process id -> name of each child process that works with the home's files.
      coordinator: process id of the coordinator, if known.
    """
    if not is_running:
        if not flower:
            return [ok("processes", home, "none are left behind")]
        numbers = " ".join(map(str, sorted(flower)))
        told = ", ".join(f"{name} ({pid})" for pid, name in sorted(flower.items()))
        return [failure("processes", home, f"left behind without a coordinator: {told}", f"kill {numbers}")]
    missing = sorted({"SuperLink", "gateway"} - set(flower.values()))
    if missing:
        stop = f"kill {coordinator}" if coordinator else "stop the coordinator"
        return [
            failure(
                "processes",
                home,
                f"{', '.join(missing)} does not run",
                f"{stop}; start it with the options that it had: motet coordinator start --home {home} ...",
            )
        ]
    extra = {pid: name for pid, name in flower.items() if list(flower.values()).count(name) > 1}
    if extra:
        told = ", ".join(f"{name} ({pid})" for pid, name in sorted(extra.items()))
        return [
            warning("processes", home, f"more than one: {told}", "stop the coordinator, then call this again")
        ]
    return [ok("processes", home, "coordinator, SuperLink and gateway run")]
