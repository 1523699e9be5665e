"""nginx as the benchmarks' server: pages of a few sizes, compressed or not, with TLS or not, on a core of its own."""

from __future__ import annotations

import gzip
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import need, on_core

SIZES = {"1KB": 1_000, "10KB": 10_000, "100KB": 100_000}

CONFIGURATION = """
daemon off;
worker_processes 1;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    open_file_cache max=10;
    charset utf-8;
    types {{ text/html html; }}
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port}{ssl};
        root {folder};
        {tls}
        {gzip}
        rewrite ^/([0-9]+KB)/ /$1.html break;
    }}
}}
"""

TLS = "ssl_certificate {folder}/certificate.pem; ssl_certificate_key {folder}/key.pem;"

# Who does not ask for it would be compared with what costs less: he gets nothing.
GZIP = "gzip_static on; gzip_vary on; if ($http_accept_encoding !~ gzip) { return 406; }"


@contextmanager
def nginx(folder: Path, *, tls: bool, compressed: bool) -> Iterator[str]:
    """An nginx that serves a page of 10,000 bytes at ``10KB/…``, whatever follows; yields its address.

    :param folder: where its files go
    :param compressed: whether pages are sent compressed by gzip (beforehand, so that it costs the server nothing)
    """
    need("nginx from nginx-light")
    folder.mkdir()
    for size in SIZES:
        (folder / f"{size}.html").write_text(page(size))
        (folder / f"{size}.html.gz").write_bytes(gzip.compress(page(size).encode()))
    if tls:
        make_certificate(folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = CONFIGURATION.format(
        user="user root;" if os.geteuid() == 0 else "",
        folder=folder,
        port=port,
        ssl=" ssl" if tls else "",
        tls=TLS.format(folder=folder) if tls else "",
        gzip=GZIP if compressed else "",
    )
    (folder / "nginx.conf").write_text(configuration)
    command = ["nginx", "-c", folder / "nginx.conf", "-p", folder, "-e", folder / "error.log"]
    path = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin"
    server = subprocess.Popen(on_core(1, command), env={**os.environ, "PATH": path})
    try:
        wait_for(port, server, folder / "error.log")
        yield f"http{'s' if tls else ''}://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait()


def wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    while server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    sys.exit(f"nginx did not start:\n{log.read_text()}")


def page(size: str) -> str:
    """The page of that *size*: words and links, the same each time, which gzip makes about a third of."""
    chance = random.Random(1)
    words = ["".join(chance.choices("aeinorstlmdcu", k=chance.randint(2, 9))) for _ in range(2_000)]
    text = ["<html><head><title>A page</title></head><body>"]
    length = len(text[0])
    while length < SIZES[size]:
        text.append(f'<p><a href="/{chance.choice(words)}">{" ".join(chance.choices(words, k=12))}</a></p>\n')
        length += len(text[-1])
    end = "</body></html>"
    return "".join(text)[: SIZES[size] - len(end)] + end


def make_certificate(folder: Path) -> None:
    """A certificate that is signed by itself."""
    need("openssl")
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if made.returncode:
        sys.exit(f"openssl made no certificate:\n{made.stdout}")
