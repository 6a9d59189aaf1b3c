"""Tables of identities: certificates that were issued, tokens to enrol with, clients whose key was revoked."""

from __future__ import annotations

from sqlalchemy import Float, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from coordinator.storage.models import Base


class IdentityRow(Base):
    """One certificate. ``serial`` and ``fingerprint`` (SHA-256 of the DER) are hex; times are seconds since 1970."""

    __tablename__ = "identities"
    serial: Mapped[str] = mapped_column(String(40), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(64))
    fingerprint: Mapped[str] = mapped_column(String(64))
    certificate: Mapped[str] = mapped_column(Text)
    issued_at: Mapped[float] = mapped_column(Float)
    not_after: Mapped[float] = mapped_column(Float)
    revoked_at: Mapped[float | None] = mapped_column(Float)
    reason: Mapped[str] = mapped_column(Text, default="")
    __table_args__ = (Index("ix_identities_role_name", "role", "name"),)


class EnrolmentTokenRow(Base):
    """A token that admits one client once. Of its secret only the SHA-256 is here.

    ``used_by``: hash of the keys that redeemed it, ``serial``: of the certificate that they got; empty before.
    """

    __tablename__ = "enrolment_tokens"
    token_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    secret_sha256: Mapped[str] = mapped_column(String(64))
    client_id: Mapped[str] = mapped_column(String(64), index=True)
    capacity_class: Mapped[str] = mapped_column(String(64), default="")
    created_at: Mapped[float] = mapped_column(Float)
    expires_at: Mapped[float] = mapped_column(Float)
    used_at: Mapped[float | None] = mapped_column(Float)
    used_by: Mapped[str] = mapped_column(String(64), default="")
    serial: Mapped[str] = mapped_column(String(40), default="")
    revoked_at: Mapped[float | None] = mapped_column(Float)


class RevokedKeyRow(Base):
    """A client's registered key that is no longer believed; the client may come back with another one."""

    __tablename__ = "revoked_keys"
    client_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    key_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    revoked_at: Mapped[float] = mapped_column(Float)
    reason: Mapped[str] = mapped_column(Text, default="")
