"""`scrapy` commands without the wait for Python's imports: each is a fork of a process that has them behind it.

``python -m tests.forkserver SOCKET`` serves until it is ended; ``python tests/forkserver.py SOCKET ARGUMENTS``
is a `scrapy` with these arguments, in its own folder and environment and with its own streams.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

_MOST = 1 << 20  # bytes of a command with its environment


def serve(path: str) -> None:
    import scrapy.commands.crawl
    import scrapy.commands.runspider
    import scrapy.extensions.feedexport  # noqa: F401 - what every command would import
    from scrapy.cmdline import execute

    import scrapy_batcher.addon
    import scrapy_batcher.command
    import scrapy_batcher.spider  # noqa: F401 - likewise

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks here: their clients do
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(16)
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            data, streams, _, _ = socket.recv_fds(connection, _MOST, 3)
            if os.fork() == 0:
                break
            connection.close()
            for stream in streams:
                os.close(stream)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    command = json.loads(data)
    os.chdir(command["folder"])
    os.environ.clear()
    os.environ.update(command["environment"])
    code = 1
    try:
        execute(["scrapy", *command["arguments"]])
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
        raise
    finally:
        connection.send(bytes([code]))
        connection.detach()  # open until this process is gone: the client waits for that


def ask(path: str, arguments: list[str]) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        command = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(connection, [json.dumps(command).encode()], [0, 1, 2])
        code = connection.recv(1)
        connection.recv(1)
    return code[0] if code else 1


if __name__ == "__main__":
    if __package__:
        serve(sys.argv[1])
    else:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
