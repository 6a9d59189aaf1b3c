"""The audit's shell: ledger files, bundles, their verification, the report. No torch, no SQL."""
