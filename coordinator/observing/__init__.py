"""What operators' machines see of a coordinator: metrics for Prometheus, and whether it lives and is ready."""
