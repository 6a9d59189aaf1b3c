"""Tables and the picture show what the result holds, and nothing else."""

import pytest
from rich.console import Console

from motet.cli.report import clients_table, format_bytes, format_gain, metrics_table, plot_learning_curve


def metric(accuracy, count=400):
    return {"loss": 1.0, "loss_standard_error": 0.01, "num_examples": count, "accuracy": accuracy}


def result_of(*, private=True, accuracy=True):
    gain = {"gain": 0.061, "standard_error": 0.012}
    metrics = {
        "start": metric(0.1),
        "local_only": {"ward-a": metric(0.5), "ward-b": metric(0.4)},
        "head_only": metric(0.6),
        "federated": metric(0.7),
    }
    gains = {"federated": {"head_only": gain, "alone/ward-a": gain}}
    if private:
        metrics |= {"federated_no_privacy": metric(0.8), "head_only_private": metric(0.55)}
        gains["federated_no_privacy"] = {"head_only": gain, "federated": gain}
    if not accuracy:
        for entry in [*metrics.values(), *metrics["local_only"].values()]:
            entry.pop("accuracy", None)
    client = {"lora_rank": 4, "num_examples": 1234, "bytes_up": 1_400_000, "bytes_down": 900}
    return {
        "recipe_name": "wards",
        "method": "flora",
        "metrics": metrics,
        "gains": gains,
        "clients": [{"client_id": "ward-a", "epsilon": 7.99 if private else None} | client],
        "curves": {"federated": [metrics["start"], metrics["federated"]]},
    }


def shown(table, width=80):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(table)
    return console.export_text()


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("accuracy", [True, False])
def test_the_tables_fit_80_columns_and_hold_every_row(private, accuracy):
    result = result_of(private=private, accuracy=accuracy)
    text = shown(metrics_table(result)) + shown(clients_table(result))
    assert max(len(line) for line in text.splitlines()) <= 80
    for word in ("start (no training)", "head alone", "ward-a alone", "ward-b alone", "federated", "1.4 MB"):
        assert word in text
    assert ("privacy" in text) == private
    assert ("7.99" in text) == private
    assert ("70.0 %" in text) == accuracy
    assert ("perplexity" in text) == (not accuracy)


def test_a_gain_is_in_points_of_accuracy_or_in_nats():
    gain = {"gain": 0.061, "standard_error": 0.012}
    assert format_gain(gain, "accuracy") == "+6.1 ± 1.2"
    assert format_gain(gain, "loss") == "+0.061 ± 0.012"
    assert format_gain(None, "loss") == ""


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1.5e6, "1.5 MB"), (2e12, "2000.0 GB")]
)
def test_bytes_are_in_powers_of_1000(count, text):
    assert format_bytes(count) == text


def test_the_picture_is_a_png_with_size(tmp_path):
    path = plot_learning_curve(result_of(), tmp_path / "curve.png")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 5000
