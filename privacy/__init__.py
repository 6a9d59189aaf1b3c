"""Differential privacy: events, accountants, calibration, noise, sampling, DP-SGD. Claims: README.md."""
