"""Runs the services of a docker-compose.yml as processes in namespaces of this kernel, without a container engine."""
