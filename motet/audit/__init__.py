"""The audit's shell: ledger files, bundles, verification, report, attack. No SQL; only ``attack`` loads torch."""
