"""Identities in SQL: certificates, enrolment tokens, registrations, revocations. One method, one transaction."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from coordinator.errors import StorageError
from coordinator.storage.identity_tables import EnrolmentTokenRow, IdentityRow, RevokedKeyRow
from coordinator.storage.models import ClientRow
from motet.connection.errors import NotAllowedError, NotAuthenticatedError
from motet.errors import NotFoundError
from privacy.ledger.entries import ClientKey

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.orm import Session

    from coordinator.storage.database import Database
    from coordinator.storage.ledger import StoredLedger
    from motet.clock import Clock


FRESH = 2 / 3
"""Share of its life from which on a certificate is not renewed by signature: the one that is there is given again."""
_NEWEST = 16


class TokenRefusedError(NotAuthenticatedError):
    """An enrolment token is unknown, used, out of date or revoked."""


class RevokedKeyError(NotAllowedError):
    """The key of a client was revoked: it does not come back."""


class UnknownIdentityError(NotFoundError):
    """Nobody of that name, or no certificate of that serial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """A certificate as it is recorded: ``serial`` and ``fingerprint`` in hex, times in seconds since 1970."""

    serial: str
    role: str
    name: str
    fingerprint: str
    pem: str
    not_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """What one revocation took back: serials of certificates, and whether a client's registered key was among it."""

    name: str
    role: str
    serials: tuple[str, ...]
    is_client_out: bool


def serial_text(serial: int | str) -> str:
    """A serial as it is stored: lower-case hex without leading zeros."""
    number = serial if isinstance(serial, int) else int(serial, 16)
    return f"{number:x}"


def key_sha256(public_key: bytes) -> str:
    """Name of a registered key in the list of revoked ones."""
    return hashlib.sha256(public_key).hexdigest()


class Identities:
    """The identities of one federation.

    Args:
      database: where the tables are.
      ledger: gets every registered key as an entry.
      clock: for records and lifetimes.
    """

    def __init__(self, database: Database, ledger: StoredLedger, clock: Clock) -> None:
        self._database, self._ledger, self._clock = database, ledger, clock

    # -- clients -------------------------------------------------------------------------------------------------

    def register_client(
        self, client_id: str, public_key: bytes, *, node_id: str = "", capacity_class: str = ""
    ) -> None:
        """Add a data owner, or change its key, node and class.

        Raises:
          RevokedKeyError: this key of this client was revoked.
        """
        with self._database.transaction() as session:
            self._register(session, client_id, public_key, node_id, capacity_class)

    def _register(
        self, session: Session, client_id: str, public_key: bytes, node_id: str, capacity_class: str
    ) -> None:
        if session.get(RevokedKeyRow, (client_id, key_sha256(public_key))) is not None:
            raise RevokedKeyError(
                f"this key of client {client_id} was revoked",
                hint="let the client make new keys in a new --home, and admit those",
            )
        row = session.get(ClientRow, client_id)
        if row is None:
            row = ClientRow(client_id=client_id, registered_at=self._clock.now(), public_key=public_key)
            session.add(row)
        row.public_key, row.node_id, row.capacity_class = public_key, node_id, capacity_class
        pem = public_key.decode("ascii", "replace")
        self._ledger.record(session, [ClientKey(client_id=client_id, public_key=pem)])

    def revoked_clients(self) -> frozenset[str]:
        """Clients whose registered key is revoked."""
        query = select(ClientRow.client_id, ClientRow.public_key, RevokedKeyRow.key_sha256).join(
            RevokedKeyRow, RevokedKeyRow.client_id == ClientRow.client_id
        )
        with self._database.reading() as session:
            return frozenset(c for c, key, revoked in session.execute(query) if key_sha256(key) == revoked)

    # -- certificates --------------------------------------------------------------------------------------------

    def record(self, issued: IssuedCertificate) -> None:
        """Remember a certificate; before it is handed out."""
        with self._database.transaction() as session:
            self._record(session, issued)

    def record_next(self, present: int | str, issued: IssuedCertificate) -> bool:
        """Remember what follows the certificate of the serial ``present``, in one step with a look at that.

        Returns:
          False where the present one is revoked or unknown, also since the call came; nothing is recorded then, so that
          no renewal that was under way outlives a revocation.
        """
        with self._database.transaction() as session:
            row = session.get(IdentityRow, serial_text(present))
            if row is None or row.revoked_at is not None:
                return False
            self._record(session, issued)
            return True

    def _record(self, session: Session, issued: IssuedCertificate) -> None:
        session.add(
            IdentityRow(
                serial=issued.serial,
                role=issued.role,
                name=issued.name,
                fingerprint=issued.fingerprint,
                certificate=issued.pem,
                issued_at=self._clock.now(),
                not_after=issued.not_after,
            )
        )

    def following(
        self,
        serial: int | str,
        fingerprint: str,
        *,
        is_same_key: Callable[[str], bool],
        issue: Callable[[str], IssuedCertificate],
    ) -> IssuedCertificate | None:
        """The certificate that follows a client's present one: its newest while that is fresh, else a new one.

        Fresh is a certificate for the same key with ``FRESH`` of its life left that was not revoked. So a key adds at
        most one row in a third of a certificate's life, however often and by however many it is asked.

        Args:
          serial: of the present certificate.
          fingerprint: of the present certificate.
          is_same_key: whether a certificate (PEM) is for the key of the present one.
          issue: makes a certificate for a client's name; called within the transaction, at most once.

        Returns:
          None where the present certificate is revoked, or not on record as a client's.
        """
        number = serial_text(serial)
        with self._database.reading() as session:
            present = _present(session, number, fingerprint)
            fresh = None if present is None else self._fresh(session, present.name, is_same_key)
        if present is None or fresh is not None:
            return fresh
        with self._database.transaction() as session:  # two may have come at once
            present = _present(session, number, fingerprint)
            if present is None:
                return None
            fresh = self._fresh(session, present.name, is_same_key)
            if fresh is None:
                fresh = issue(present.name)
                self._record(session, fresh)
            return fresh

    def _fresh(
        self, session: Session, name: str, is_same_key: Callable[[str], bool]
    ) -> IssuedCertificate | None:
        now = self._clock.now()
        query = select(IdentityRow).where(
            IdentityRow.role == "client",
            IdentityRow.name == name,
            IdentityRow.revoked_at.is_(None),
            IdentityRow.not_after > now,
        )
        for row in session.scalars(query.order_by(IdentityRow.not_after.desc()).limit(_NEWEST)):
            if row.not_after - now >= FRESH * (row.not_after - row.issued_at) and is_same_key(
                row.certificate
            ):
                return _issued(row)
        return None

    def is_revoked(self, serial: int | str) -> bool:
        """Whether a certificate must not be believed: revoked, or of a serial that was never recorded here."""
        with self._database.reading() as session:
            row = session.get(IdentityRow, serial_text(serial))
            return row is None or row.revoked_at is not None

    def has_serial(self, serial: str) -> bool:
        """Whether a text is the serial of a certificate of this federation."""
        try:
            name = serial_text(serial)
        except ValueError:
            return False
        with self._database.reading() as session:
            return session.get(IdentityRow, name) is not None

    def certificates(self, *, role: str = "", name: str = "") -> Sequence[IdentityRow]:
        """Certificates, oldest first; of one role or name if asked."""
        query = select(IdentityRow).order_by(IdentityRow.issued_at, IdentityRow.serial)
        query = query.where(IdentityRow.role == role) if role else query
        query = query.where(IdentityRow.name == name) if name else query
        with self._database.reading() as session:
            return session.scalars(query).all()

    def revoke_serial(self, serial: int | str, reason: str = "") -> Revoked:
        """Take back one certificate; others of that name stay. Revoked twice is revoked once.

        Raises:
          UnknownIdentityError: there is none of that serial.
        """
        with self._database.transaction() as session:
            row = session.get(IdentityRow, serial_text(serial))
            if row is None:
                raise UnknownIdentityError(
                    f"no certificate has the serial {serial_text(serial)}", hint="see them: motet ca list"
                )
            if row.revoked_at is None:
                row.revoked_at, row.reason = self._clock.now(), reason
            return Revoked(name=row.name, role=row.role, serials=(row.serial,), is_client_out=False)

    def revoke_name(self, name: str, reason: str = "", *, role: str = "") -> Revoked:
        """Take back all that somebody has: certificates, unused tokens, and a client's registered key.

        Raises:
          UnknownIdentityError: nobody has that name, or several roles have it and none is named.
        """
        now = self._clock.now()
        with self._database.transaction() as session:
            rows = session.scalars(select(IdentityRow).where(IdentityRow.name == name)).all()
            client = session.get(ClientRow, name)
            tokens = session.scalars(
                select(EnrolmentTokenRow).where(
                    EnrolmentTokenRow.client_id == name, EnrolmentTokenRow.used_at.is_(None)
                )
            ).all()
            roles = {r.role for r in rows} | ({"client"} if client is not None or tokens else set())
            wanted = roles & {role} if role else roles
            if not wanted:
                raise UnknownIdentityError(
                    f"there is no {role or 'identity'} {name}", hint="see them: motet ca list"
                )
            if len(wanted) > 1:
                raise UnknownIdentityError(
                    f"{name} has the roles {', '.join(sorted(wanted))}", hint="name one of them: --role"
                )
            (found,) = wanted
            live = [r for r in rows if r.role == found and r.revoked_at is None]
            for row in live:
                row.revoked_at, row.reason = now, reason
            if found == "client":
                for token in tokens:
                    token.revoked_at = token.revoked_at or now
                if client is not None:
                    _revoke_key(session, name, client.public_key, now, reason)
            return Revoked(
                name=name,
                role=found,
                serials=tuple(r.serial for r in live),
                is_client_out=found == "client" and client is not None,
            )

    # -- tokens --------------------------------------------------------------------------------------------------

    def add_token(
        self, token_id: str, secret: bytes, client_id: str, *, lifetime_s: float, capacity_class: str = ""
    ) -> float:
        """Remember a token by the hash of its secret; returns when it ends, in seconds since 1970."""
        now = self._clock.now()
        with self._database.transaction() as session:
            session.add(
                EnrolmentTokenRow(
                    token_id=token_id,
                    secret_sha256=hashlib.sha256(secret).hexdigest(),
                    client_id=client_id,
                    capacity_class=capacity_class,
                    created_at=now,
                    expires_at=now + lifetime_s,
                )
            )
        return now + lifetime_s

    def redeem(
        self,
        token_id: str,
        secret: bytes,
        *,
        public_key: bytes,
        keys_sha256: str,
        issue: Callable[[str], IssuedCertificate],
    ) -> IssuedCertificate:
        """Spend a token: certificate, registration and the end of the token in one transaction.

        The same keys may come again with their token and get the certificate that they have, so that a client whose
        answer was lost does not need another token.

        Args:
          token_id: from the token.
          secret: from the token.
          public_key: of the fleet route, as it is registered.
          keys_sha256: of all keys of the request; who comes again is known by it.
          issue: makes a certificate for a client's name; called within the transaction, at most once.

        Raises:
          TokenRefusedError: unknown, wrong, used by other keys, out of date or revoked.
          RevokedKeyError: the key was revoked.
        """
        now = self._clock.now()
        offered = hashlib.sha256(secret).hexdigest()
        with self._database.transaction() as session:
            token = session.get(EnrolmentTokenRow, token_id)
            known = token.secret_sha256 if token is not None else "0" * 64
            if not hmac.compare_digest(known, offered) or token is None:
                raise _refused("unknown")
            if token.revoked_at is not None:
                raise _refused("revoked")
            if token.used_at is not None:
                return self._again(session, token, keys_sha256)
            if now > token.expires_at:
                raise _refused("out of date")
            client = session.get(ClientRow, token.client_id)
            if client is not None and client.public_key != public_key:
                _revoke_key(session, token.client_id, client.public_key, now, "replaced by enrolment")
                session.execute(
                    update(IdentityRow)
                    .where(
                        IdentityRow.role == "client",
                        IdentityRow.name == token.client_id,
                        IdentityRow.revoked_at.is_(None),
                    )
                    .values(revoked_at=now, reason="replaced by enrolment")
                )
            issued = issue(token.client_id)
            self._record(session, issued)
            self._register(session, token.client_id, public_key, "", token.capacity_class)
            token.used_at, token.used_by, token.serial = now, keys_sha256, issued.serial
            return issued

    def _again(self, session: Session, token: EnrolmentTokenRow, keys_sha256: str) -> IssuedCertificate:
        if not hmac.compare_digest(token.used_by, keys_sha256):
            raise _refused("used")
        row = session.get(IdentityRow, token.serial)
        if row is None:
            raise StorageError(
                "the certificate of a used token is not in the database", hint="restore the newest backup"
            )
        if row.revoked_at is not None:
            raise _refused("revoked")
        return _issued(row)


def _issued(row: IdentityRow) -> IssuedCertificate:
    return IssuedCertificate(
        serial=row.serial,
        role=row.role,
        name=row.name,
        fingerprint=row.fingerprint,
        pem=row.certificate,
        not_after=row.not_after,
    )


def _present(session: Session, serial: str, fingerprint: str) -> IdentityRow | None:
    row = session.get(IdentityRow, serial)
    is_good = (
        row is not None
        and row.role == "client"
        and row.revoked_at is None
        and hmac.compare_digest(row.fingerprint, fingerprint)
    )
    return row if is_good else None


def _revoke_key(session: Session, client_id: str, public_key: bytes, now: float, reason: str) -> None:
    name = (client_id, key_sha256(public_key))
    if session.get(RevokedKeyRow, name) is None:
        session.add(RevokedKeyRow(client_id=name[0], key_sha256=name[1], revoked_at=now, reason=reason))


def _refused(why: str) -> TokenRefusedError:
    return TokenRefusedError(
        f"the enrolment token is {why}", hint="ask the operator for a new one: motet ca token --client NAME"
    )
