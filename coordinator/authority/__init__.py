"""The federation's certificate authority: who somebody is, for how long, and whether that was taken back."""

from coordinator.authority.authority import Authority, ensure_authority
from coordinator.authority.issuing import issue_identity, requested_key

__all__ = ["Authority", "ensure_authority", "issue_identity", "requested_key"]
