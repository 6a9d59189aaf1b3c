"""What ends a command and was foreseen nowhere: a full disk or missing rights in words, the rest kept whole."""

from __future__ import annotations

import errno

from motet.errors import MotetError

_NEXT = {
    errno.ENOSPC: "make room on that disk, then type the same again",
    errno.EDQUOT: "make room within your quota, then type the same again",
    errno.EFBIG: "the shell or the disk allows no larger file: see ulimit -f",
    errno.EROFS: "that disk can only be read: choose another folder",
    errno.EACCES: "check its rights, or choose another folder",
    errno.EPERM: "check its rights, or choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a part of that path is a file: check it",
    errno.EMFILE: "allow more open files: see ulimit -n",
}


class MachineRefusedError(MotetError):
    """The machine would not write or read a file: it is full, or does not allow it."""

    exit_code = 8


def of_the_machine(error: Exception) -> MachineRefusedError | None:
    """The error in words where the machine refused a file; None where it is another."""
    hint = _NEXT.get(error.errno or 0) if isinstance(error, OSError) else None
    if hint is None or not isinstance(error, OSError):
        return None
    if error.filename:
        return MachineRefusedError(f"{error.filename} can not be used: {error.strerror}", hint=hint)
    return MachineRefusedError(f"a file can not be written or read: {error.strerror}", hint=hint)


def keep_traceback() -> str:
    """What to do with the traceback of the exception that is handled: it is in a file, if one can be written."""
    import tempfile
    import traceback

    try:
        with tempfile.NamedTemporaryFile("w", prefix="motet-fault-", suffix=".txt", delete=False) as file:
            traceback.print_exc(file=file)
    except OSError as e:
        return f"please report it; its traceback could not be kept ({e.strerror}): set TMPDIR to a folder with room"
    return f"please report it with the file {file.name}"
