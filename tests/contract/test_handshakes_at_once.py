"""Handshakes that begin at once, by the hundred, on the control API."""

import signal

import forked_motet
import handshakes


def ended(folder, seconds, mode):
    """How the process that served ended: 0, or minus the signal."""
    process = forked_motet.start_function(handshakes.serve_under_handshakes, str(folder), seconds, mode)
    process.join(60)
    if process.exitcode is None:
        process.kill()
        process.join(10)
    return process.exitcode


def test_handshakes_that_begin_at_once_do_not_end_the_coordinator(tmp_path):
    assert ended(tmp_path / "fed", 2.0, "right") == 0


def test_were_certificates_given_anew_at_each_handshake_the_process_would_die_of_them(tmp_path):
    """Positive control: gRPC frees what another handshake makes use of. How it dies of that is chance."""
    assert ended(tmp_path / "fed", 20.0, "anew") in {
        -signal.SIGSEGV,
        -signal.SIGABRT,
        -signal.SIGBUS,
        -signal.SIGILL,
        -signal.SIGFPE,
        -signal.SIGTRAP,
    }
