"""Log lines for machines: one object a line, what it is about, and no words of an exception."""

import importlib
import json
import logging
import threading

import pytest

from motet.logs import FIELDS, FORMATS, JsonFormatter, about, configure


def line(message, *args, **options):
    record = logging.getLogger("coordinator.test").makeRecord(
        "coordinator.test",
        logging.WARNING,
        __file__,
        1,
        message,
        args,
        options.get("exc_info"),
        extra=options.get("extra"),
    )
    text = JsonFormatter().format(record)
    assert "\n" not in text
    return json.loads(text)


def test_a_line_is_one_object_with_what_it_is_about():
    with about(run_id="r-1", client_id="a"):
        with about(round_index=3):
            told = line("update of %s\nrefused", "a", extra={"request_id": "q-1"})
        outside = line("again")
    assert told.pop("at").startswith("20")
    assert told == {
        "level": "warning", "logger": "coordinator.test", "message": "update of a\nrefused",
        "run_id": "r-1", "client_id": "a", "round_index": 3, "request_id": "q-1",
    }  # fmt: skip
    assert "round_index" not in outside
    assert "run_id" not in line("after")


@pytest.fixture
def flower():
    """Flower's logger, and everybody's, as they were afterwards."""
    loggers = [logging.getLogger(), logging.getLogger("flwr")]
    before = [(it.level, list(it.handlers), list(it.filters)) for it in loggers]
    loggers[1].filters.clear()
    yield loggers[1]
    logging.captureWarnings(capture=False)
    for it, (level, handlers, filters) in zip(loggers, before, strict=True):
        it.setLevel(level)
        it.handlers[:], it.filters[:] = handlers, filters


@pytest.mark.parametrize("log_format", FORMATS)
def test_flower_says_nothing_but_warnings_and_these_once_and_in_our_form(flower, capsys, log_format):
    import flwr.supercore.logger as flowers_own

    def said():
        importlib.reload(
            flowers_own
        )  # as where it is imported after ``configure``: a level and a handler of its own
        assert (flower.level, bool(flower.handlers)) == (logging.DEBUG, True)
        flowers_own.log(logging.DEBUG, "[flwr-serverapp] Connected to %s", "127.0.0.1:1")
        flowers_own.log(logging.INFO, "all is well")
        flowers_own.log(logging.WARNING, "a %s", "warning")
        flowers_own.log(logging.ERROR, "an error")
        return capsys.readouterr().err.splitlines()

    for _ in range(2):  # twice is once
        configure(verbose=True, log_format=log_format)
    lines = said()
    assert len(lines) == 2
    if log_format == "json":
        told = [(it["level"], it["logger"], it["message"]) for it in map(json.loads, lines)]
        assert told == [("warning", "flwr", "a warning"), ("error", "flwr", "an error")]
    else:
        assert [text.split(" ", 2)[2] for text in lines] == ["flwr a warning", "flwr an error"]
    flower.filters.clear()  # positive control
    assert any("Connected to" in text for text in said())


def test_the_words_of_an_exception_which_can_quote_data_are_not_written():
    try:
        raise ValueError("could not read 'Anna Smith has flu'")
    except ValueError as e:
        told = line("reading failed", exc_info=(type(e), e, e.__traceback__))
    assert told["error"] == "ValueError"
    assert "Anna" not in json.dumps(told)


def test_only_fields_that_somebody_looked_at_can_be_named():
    with pytest.raises(ValueError, match="example"), about(example="Anna"):
        pass
    assert set(FIELDS) == {"run_id", "round_index", "client_id", "request_id"}


def test_another_thread_is_about_something_else():
    seen = []
    with about(run_id="r-1"):
        thread = threading.Thread(target=lambda: seen.append(line("there")))
        thread.start()
        thread.join()
    assert "run_id" not in seen[0]


def test_what_a_record_quotes_begins_no_line_of_its_own_and_commands_no_terminal(capsys):
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    try:
        configure(verbose=False)
        logging.getLogger("client.worker").warning(
            "round 1 of %s refused", "r-1\n2026-11-22 coordinator all is well\x1b[2J\u202e"
        )
        try:
            raise ValueError("kept")
        except ValueError:
            logging.getLogger("client.worker").exception("a fault")
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]
    told = capsys.readouterr().err.splitlines()
    assert told[0].endswith(r"round 1 of r-1\n2026-11-22 coordinator all is well\x1b[2J\u202e refused")
    assert told[1].endswith("a fault")
    assert told[-1] == "ValueError: kept"  # control: a traceback keeps its lines
