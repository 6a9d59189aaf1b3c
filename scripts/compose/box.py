"""One service in namespaces of its own: network, processes, mounts, host name. Started as a script by the supervisor.

``box.py run SPEC.json`` builds a root folder of read-only binds, the service's volumes and its tmpfs, enters it, gives
up root and every capability, and runs the command below a small init. ``box.py exec SPEC.json PID WORD...`` runs one
more command in the namespaces of a box that runs. Needs root, or root in a user namespace.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence

RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x20000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
DETACH = 2
PDEATHSIG, CAPBSET_DROP, NO_NEW_PRIVS = 1, 24, 38
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
RELAYED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
KEPT_FLAGS = (
    (os.ST_NOSUID, NOSUID),
    (os.ST_NODEV, NODEV),
    (os.ST_NOEXEC, NOEXEC),
    (os.ST_NOATIME, 1024),
    (os.ST_RELATIME, 1 << 21),
)  # those that a user namespace may not lift
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str | None, target: Path, kind: str | None, flags: int, data: str = "") -> None:
    def raw(text: str | None) -> bytes | None:
        return None if text is None else text.encode()

    result = _libc.mount(raw(source), str(target).encode(), raw(kind), ctypes.c_ulong(flags), data.encode())
    _check(result, f"mount {source} on {target}")


def _read_only(path: Path) -> None:
    """This mount and those below it."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in [m.encode().decode("unicode_escape") for m in mounts]:
        if point == str(path) or point.startswith(f"{path}/"):
            told = os.statvfs(point).f_flag
            kept = sum(flag for there, flag in KEPT_FLAGS if told & there)
            _mount(None, Path(point), None, REMOUNT | BIND | RDONLY | kept)


def _bind(source: str, target: Path, *, read_only: bool) -> None:
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(source, target, None, BIND | REC)
    if read_only:
        _read_only(target)


def _build(spec: dict[str, Any]) -> Path:
    """The root folder, mounted."""
    root = Path(spec["root"])
    _mount("none", Path("/"), None, REC | PRIVATE)
    _mount("root", root, "tmpfs", NOSUID | NODEV, "mode=0755")
    for link, target in spec["links"].items():
        (root / link.lstrip("/")).symlink_to(target)
    for target, options in spec["tmpfs"]:
        path = root / target.lstrip("/")
        path.mkdir(parents=True, exist_ok=True)
        _mount("tmpfs", path, "tmpfs", NOSUID | NODEV | NOEXEC, options)
    for source, target in spec["binds"]:
        _bind(source, root / target.lstrip("/"), read_only=True)
    (root / "proc").mkdir()
    _mount("proc", root / "proc", "proc", NOSUID | NODEV | NOEXEC)
    _devices(root / "dev")
    for name, content in spec["files"].items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o755 if content.startswith("#!") else 0o644)
    for mount in spec["mounts"]:
        _bind(mount["source"], root / mount["target"].lstrip("/"), read_only=mount["read_only"])
    if spec["read_only"]:
        _mount(None, root, None, REMOUNT | BIND | RDONLY | NOSUID | NODEV)
    return root


def _devices(folder: Path) -> None:
    folder.mkdir()
    _mount("dev", folder, "tmpfs", NOSUID, "mode=0755")
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        _bind(f"/dev/{name}", folder / name, read_only=False)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (folder / name).symlink_to(f"/proc/self/{target}")
    (folder / "shm").mkdir()
    _mount("shm", folder / "shm", "tmpfs", NOSUID | NODEV, "mode=1777,size=128m")


def _enter(root: Path) -> None:
    os.chdir(root)
    number = PIVOT_ROOT.get(platform.machine())
    if number is None:
        os.chroot(".")
    else:
        _check(_libc.syscall(number, b".", b"."), "pivot_root")
        _check(_libc.umount2(b".", DETACH), "umount")
    os.chdir("/")


def _become(spec: dict[str, Any]) -> None:
    """The service's user; no capability, and no way to get one."""
    uid, gid = spec["uid"], spec["gid"]
    if spec["in_user_namespace"]:
        mine = os.geteuid(), os.getegid()
        _check(_libc.unshare(NEWUSER), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {mine[0]} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {mine[1]} 1")
    if spec["drops_capabilities"]:
        for capability in range(64):
            _libc.prctl(CAPBSET_DROP, capability, 0, 0, 0)
    if not spec["in_user_namespace"] and uid:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    _check(_libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def _exec(spec: dict[str, Any], words: Sequence[str]) -> NoReturn:
    os.chdir(spec["cwd"])
    try:
        _become(spec)
        os.execvpe(words[0], list(words), spec["environment"])
    except OSError as e:
        print(f"{words[0]}: {e.strerror or e}", file=sys.stderr, flush=True)
        os._exit(127)


def _status(raw: int) -> int:
    code = os.waitstatus_to_exitcode(raw)
    return 128 - code if code < 0 else code


def _relay_to(pid: int) -> None:
    for number in RELAYED:
        signal.signal(number, lambda n, _frame: os.kill(pid, n))


def _reap(main: int) -> int:
    """Wait for every child, as an init does, until ``main`` has ended."""
    while True:
        pid, raw = os.waitpid(-1, 0)
        if pid == main:
            return _status(raw)


def run(spec: dict[str, Any]) -> int:
    """Run the service to its end; its exit code."""
    with open(spec["netns"]) as namespace:  # noqa: PTH123 - a descriptor is meant
        _check(_libc.setns(namespace.fileno(), NEWNET), "setns")
    _check(_libc.unshare(NEWNS | NEWPID | NEWIPC | NEWUTS), "unshare")
    told = os.open(spec["pid_file"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    is_built, say_built = os.pipe()
    first = os.fork()
    if first:
        os.close(say_built)
        _relay_to(first)
        if os.read(is_built, 1):  # else it has ended
            os.write(told, str(first).encode())  # by a descriptor: the child has changed the root of both
        os.close(told)
        return _status(os.waitpid(first, 0)[1])
    os.close(told)
    os.close(is_built)
    _libc.prctl(PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.umask(0o022)
    _libc.sethostname(spec["hostname"].encode(), len(spec["hostname"]))
    _enter(_build(spec))
    os.write(say_built, b".")
    os.close(say_built)
    if not spec["init"]:
        _exec(spec, spec["words"])
    main = os.fork()
    if main == 0:
        os.setsid()
        _exec(spec, spec["words"])
    _relay_to(main)
    os._exit(_reap(main))


def run_beside(spec: dict[str, Any], pid: int, words: Sequence[str]) -> int:
    """Run a command in the namespaces of ``pid``, as the service's user; its exit code."""
    kinds = (("ipc", NEWIPC), ("uts", NEWUTS), ("net", NEWNET), ("pid", NEWPID), ("mnt", NEWNS))
    opened = [(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY), flag) for name, flag in kinds]
    for descriptor, flag in opened:
        _check(_libc.setns(descriptor, flag), "setns")
        os.close(descriptor)
    child = os.fork()
    if child == 0:
        _libc.prctl(PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _exec(spec, words)
    return _status(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    told = json.loads(Path(sys.argv[2]).read_text())
    os.environ["PATH"] = told["environment"].get("PATH", os.defpath)
    try:
        sys.exit(run(told) if sys.argv[1] == "run" else run_beside(told, int(sys.argv[3]), sys.argv[4:]))
    except OSError as e:
        print(f"box: {e}", file=sys.stderr, flush=True)
        sys.exit(126)
