"""Databases for the contracts."""

from databases import place, postgresql_url

__all__ = ["place", "postgresql_url"]
