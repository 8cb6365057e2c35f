"""The listener on a disk and with a clock that do what no real ones do when they are asked to.

`Faulty` starts it. Run as a program, this is the listener with stand-ins for its `os` and `time`,
which learn what to do from the files `fault`, `clock` and `passed` in the working folder.
"""

import errno
import json
import os
import signal
import subprocess
import sys
import time

from support import HERE, listener
from support.process import Listener


class Faulty(Listener):
    """A Listener whose disk has the fault that it is told of, and its clock the error."""

    def __init__(self, folder, *options, start=True, stdin=subprocess.DEVNULL, **constants):
        """CONSTANTS of the module have these values in the process: REQUEST_SECONDS=2."""
        self.program = ["-m", "support.disk", json.dumps(constants)]
        super().__init__(folder, *options, env={"PYTHONPATH": str(HERE)}, start=start, stdin=stdin)

    def fault(self, name):
        """From now on the disk has this fault; none if there is no name."""
        self._tell("fault", name)

    def set_clock(self, seconds):
        """From now on the wall clock is so many seconds ahead of the real one."""
        self._tell("clock", str(seconds))

    def pass_time(self, seconds):
        """So many seconds have passed since it was started, and those that really have."""
        self._tell("passed", str(seconds))

    def _tell(self, name, text):
        new = self.folder / f"{name}.new"
        new.write_text(text)
        new.replace(self.folder / name)


def told(name):
    try:
        with open(name) as file:
            return file.read()
    except FileNotFoundError:
        return ""


class Disk:
    """In place of `os`. Writes inode and size of a file into `synced` when that is synced."""

    def __init__(self):
        self.half = False

    def __getattr__(self, name):
        return getattr(os, name)

    def fsync(self, file):
        if told("fault") == "fsync":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        while told("fault") == "slow":
            time.sleep(0.005)
        os.fsync(file)
        with open("synced", "a") as synced:
            print(os.fstat(file).st_ino, os.fstat(file).st_size, file=synced)

    def write(self, file, data):
        fault = told("fault") if file > 2 else ""  # the console is no disk
        if fault == "removed":
            os.unlink("listener_log/log.log")
            os.unlink("fault")
        if fault == "short":
            return os.write(file, data[:max(1, len(data) // 3)])
        if fault.startswith("torn"):
            self.half = not self.half
            if not self.half:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return os.write(file, data[:len(data) // 2])
        return os.write(file, data)

    def rename(self, old, new):
        """Dies (as by kill -9) at the file of the fault `killed at FILE`, or just after it.

        Writes the new names into `renames`.
        """
        fault = told("fault")
        with open("renames", "a") as renames:
            print(os.path.basename(new), file=renames)
        if fault == f"killed at {os.path.basename(new)}":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "no rename":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        os.rename(old, new)
        if fault == f"killed after {os.path.basename(new)}":
            os.kill(os.getpid(), signal.SIGKILL)

    def ftruncate(self, file, size):
        if told("fault") == "torn for long":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.ftruncate(file, size)


class Clock:
    """In place of `time`."""

    def __getattr__(self, name):
        return getattr(time, name)

    def time(self):
        return time.time() + float(told("clock") or 0)

    def monotonic(self):
        return time.monotonic() + float(told("passed") or 0)


if __name__ == "__main__":
    listener.os, listener.time = Disk(), Clock()
    vars(listener).update(json.loads(sys.argv[1]))
    sys.exit(listener.main(sys.argv[2:]))
