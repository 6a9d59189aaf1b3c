"""A refused budget says whose it is, by how much, and what to do."""

from __future__ import annotations

from privacy.errors import BudgetExceededError, PrivacyError


def test_a_refused_budget_names_the_figures_and_a_remedy():
    error = BudgetExceededError(
        "ward-a/notes", epsilon_spent=6.18, epsilon_after=8.4, epsilon_limit=8.0, target_delta=1e-5
    )
    assert isinstance(error, PrivacyError)
    for part in ("ward-a/notes", "6.18", "8.4", "limit 8", "1e-05", "Use more noise"):
        assert part in str(error)
    assert error.epsilon_after > error.epsilon_limit
