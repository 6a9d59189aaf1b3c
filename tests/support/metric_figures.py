"""Reading what Prometheus would read."""

from prometheus_client.parser import text_string_to_metric_families


def figures(text):
    """(name, labels) -> value of the bytes of ``/metrics``."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found
