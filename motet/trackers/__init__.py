"""Figures of rounds for the tools that people plot with: JSONL, TensorBoard, MLflow, W&B offline. See docs/trackers.md.

The coordinator decides what may be recorded (``coordinator.recording``); what is here writes it down, on this machine.
"""
