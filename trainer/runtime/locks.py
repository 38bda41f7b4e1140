"""One run at a time in a workdir: a lock of the system on local folders, a lease that is renewed on remote ones."""

import fcntl
import logging
import os
import socket
import threading
import time
import uuid
from typing import IO, Any

from trainer import files
from trainer.errors import UserError

log = logging.getLogger(__name__)
RENEWED_EVERY_SECONDS = 20.0
SILENT_AFTER_SECONDS = 75.0  # a lease that is not renewed for so long belongs to a run that was killed
SETTLED_AFTER_SECONDS = 2.0  # of two that take a lease at the same moment, the later writer has it


class WorkdirLock:
    """Holds a workdir for one run.

    On a local folder the system drops the lock when the process ends, however it ends. Object stores have no locks: there a
    file names the owner and is renewed; who finds one that nobody renews takes it over.

    Args:
      workdir: of the run.

    Raises:
      UserError: (on entering) another run works in it.
    """

    def __init__(self, workdir: str):
        self._workdir = workdir
        self._file: IO[str] | None = None
        self._lease: _Lease | None = None

    def __enter__(self) -> "WorkdirLock":
        if files.is_remote(self._workdir):
            self._lease = _Lease(self._workdir)
            self._lease.take()
            return self
        files.make_dirs(self._workdir)
        path = files.join(self._workdir, "lock")
        file = open(path, "a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise UserError(
                f"--workdir: {self._workdir} is in use by {holder}; wait for it, stop it, or choose another --workdir"
            ) from None
        except OSError as error:  # some network file systems have no locks
            log.warning("%s: no lock is possible (%s); do not start a second run in it", self._workdir, error.strerror)
        file.truncate(0)
        file.write(f"{owner()}\n")
        file.flush()
        self._file = file
        return self

    def __exit__(self, *_) -> None:
        if self._lease:
            self._lease.release()
        if self._file:
            self._file.truncate(0)
            self._file.close()


def owner() -> str:
    """Returns what tells people who holds a lock."""
    return f"process {os.getpid()} on {socket.gethostname()}"


class _Lease:
    """A file in a remote folder that says who works there, and counts up while they do.

    No clock is compared: whether a lease is alive is seen by watching it.
    """

    def __init__(self, workdir: str):
        self._workdir, self._path = workdir, files.join(workdir, "lock.json")
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        self._mine = {"owner": owner(), "token": uuid.uuid4().hex, "since": since}
        self._ended = threading.Event()
        self._count = 0

    def take(self) -> None:
        """Writes the lease, once nobody else holds a living one, and renews it from then on.

        Raises:
          UserError: somebody does.
        """
        found = self._read()
        if found:
            self._wait_until_silent(found)
        self._write()
        time.sleep(SETTLED_AFTER_SECONDS)
        now = self._read() or {}
        if now.get("token") != self._mine["token"]:
            raise self._in_use(now)
        threading.Thread(target=self._renew, daemon=True).start()

    def release(self) -> None:
        """Removes the lease, if it is still ours."""
        self._ended.set()
        if (self._read() or {}).get("token") == self._mine["token"]:
            files.remove_tree(self._path)

    def _wait_until_silent(self, found: dict[str, Any]) -> None:
        log.warning(
            "%s is held by %s since %s; watching for %.0f s whether it still works", self._workdir, found.get("owner"),
            found.get("since"), SILENT_AFTER_SECONDS,
        )  # fmt: skip
        begun = time.monotonic()
        while time.monotonic() - begun < SILENT_AFTER_SECONDS:
            time.sleep(min(RENEWED_EVERY_SECONDS, SILENT_AFTER_SECONDS) / 4)
            now = self._read()
            if now is None:
                return
            if now != found:
                raise self._in_use(now)
        log.warning("%s: nobody renews the lease of %s; taking it over", self._workdir, found.get("owner"))

    def _in_use(self, holder: dict[str, Any]) -> UserError:
        return UserError(
            f"--workdir: {self._workdir} is in use by {holder.get('owner', 'another run')} since {holder.get('since', 'now')}; "
            "wait for it, stop it, or choose another --workdir"
        )

    def _read(self) -> dict[str, Any] | None:
        try:
            return files.read_json_object(self._path) if files.exists(self._path) else None
        except UserError:  # it is being written
            return {}

    def _write(self) -> None:
        self._count += 1
        files.write_json(self._path, {**self._mine, "renewed": self._count})

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED_EVERY_SECONDS):
            try:
                holder = (self._read() or {}).get("token", self._mine["token"])
                if holder != self._mine["token"]:
                    log.error("%s: another run took this workdir over; stop one of the two", self._workdir)
                    return
                self._write()
            except Exception as error:  # a store that does not answer for a while: the next renewal may succeed
                log.warning("%s: the lease could not be renewed: %s", self._workdir, str(error).splitlines()[0])
