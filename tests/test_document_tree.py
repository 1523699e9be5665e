"""A real tree of documents, from a real web server: what comes out is what is on the disk."""

from __future__ import annotations

import base64
import csv
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import Project

DOCUMENTS = Path("/usr/share/doc")
TREES = ("postgresql-doc-15", "libitpp-dev")
NEEDED = "apt-get install --no-install-recommends nginx-light postgresql-doc-15 libitpp-doc"

LARGE = 20_000_000  # bytes

CONFIGURATION = """
daemon off;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
http {{
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {root};
        location /moved/ {{ rewrite ^/moved/(.*)$ /$1 redirect; }}
    }}
}}
"""


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """The root of the tree: the packages' documents, a large file and a binary one."""
    missing = [tree for tree in TREES if not any((DOCUMENTS / tree).rglob("*.html"))]
    if missing or not shutil.which("nginx", path="/usr/sbin:/usr/bin"):
        # On CI, .ci/run has installed them.
        assert not os.environ.get("CI"), NEEDED
        pytest.skip(f"needs a tree of documents and a web server: {NEEDED}")
    root = tmp_path / "root"
    root.mkdir()
    for tree in TREES:
        (root / tree).symlink_to(DOCUMENTS / tree)
    (root / "large.bin").write_bytes(os.urandom(LARGE))
    (root / "small file.bin").write_bytes(bytes(range(256)))
    return root


@pytest.fixture
def site(documents: Path, tmp_path: Path) -> Iterator[str]:
    """The address of an nginx that serves the tree."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path / "nginx"
    folder.mkdir()
    configuration = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    configuration.write_text(CONFIGURATION.format(user=user, folder=folder, port=port, root=documents))
    server = subprocess.Popen(
        ["nginx", "-c", str(configuration), "-p", str(folder), "-e", str(folder / "error.log")],
        env={**os.environ, "PATH": "/usr/sbin:" + os.environ["PATH"]},
    )
    while server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            time.sleep(0.02)
    assert server.poll() is None, (folder / "error.log").read_text()
    yield f"http://127.0.0.1:{port}/"
    server.terminate()
    server.wait()


def listed(root: Path) -> dict[str, Path]:
    """Every file below *root*, links between its folders followed, by its path from there."""
    found: dict[str, Path] = {}
    for folder, _, names in os.walk(root, followlinks=True):
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                found[str(path.relative_to(root))] = path
    return found


def test_a_document_tree(project: Project, documents: Path, site: str) -> None:
    """Each item's length and content equal the file on the disk; what is not there is named; the outcomes add up."""
    files = listed(documents)
    assert len(files) >= 2000
    rows = [(site + quote(path), path) for path in files]
    rows += [(site + "moved/" + quote(path), path) for path in list(files)[:20]]
    rows += [(site + f"not-there-{n}.html", "") for n in range(20)]
    with (project.path / "list.csv").open("w", newline="") as list_file:
        csv.writer(list_file).writerows([("url", "path"), *rows])
    run = project.scrapy(
        *("crawl", "batch", "-a", "urls=list.csv", "-a", "failures=failures.jsonl", "-O", "items.jsonl"),
        settings={
            "CONCURRENT_REQUESTS": 32,
            "CONCURRENT_REQUESTS_PER_DOMAIN": 16,
            "BATCHER_FIELDS": "url,length,content,base64,encoding",
            "METAREFRESH_ENABLED": False,
            "LOG_LEVEL": "INFO",
        },
    )
    assert run.status == 0, run.log
    fetched: list[str] = []
    with (project.path / "items.jsonl").open() as items:
        for item in map(json.loads, items):
            fetched.append(item["url"])
            body = files[item["path"]].read_bytes()
            assert item["length"] == len(body), item["url"]
            if item["base64"]:
                assert base64.b64decode(item["content"]) == body, item["url"]
            else:
                assert item["content"] == body.decode(item["encoding"], errors="replace"), item["url"]
    failures = project.items("failures.jsonl")
    assert sorted(fetched + [failure["url"] for failure in failures]) == sorted(url for url, _ in rows)
    assert {failure["outcome"] for failure in failures} == {"failed/http-404"}
    assert len(failures) == 20
    assert run.stats["batcher/rows"] == len(rows)
    assert run.stats["batcher/outcomes/fetched"] == len(rows) - 20
    assert run.stats["batcher/outcomes/failed/http-404"] == 20
    assert site + "large.bin" in fetched
    assert site + "small%20file.bin" in fetched
