"""A batch over thousands of real files that a real web server serves: every item is the file on disk."""

from __future__ import annotations

import base64
import csv
import os
import random
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import ROOT, Project

# Unpacked Debian packages of documents, by .ci/install.
DOCUMENTS = ROOT / "build" / "documents"
# Debian has it where only root's PATH leads.
NGINX = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))

MISSING, MOVED = 40, 20

CONFIG = """
# One process in the foreground, which needs no user of its own, and is gone when it is told to end.
daemon off;
master_process off;
pid nginx.pid;
error_log stderr crit;  # a file that is not there is an error to nginx
events {{}}
http {{
    include /etc/nginx/mime.types;
    access_log off;
    # As Debian's own configuration has it; what is in the item is decompressed.
    gzip on;
    client_body_temp_path temp;
    proxy_temp_path temp;
    fastcgi_temp_path temp;
    uwsgi_temp_path temp;
    scgi_temp_path temp;
    server {{
        listen {address};
        root site;
        location /moved/ {{ rewrite ^/moved/(.*)$ /$1 redirect; }}
    }}
}}
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The folder that is served: real documents, a large file, and names that have to be quoted in a URL."""
    if not (NGINX and DOCUMENTS.is_dir()):
        reason = "there is no nginx, or no build/documents: as root on Debian, .ci/install gets them"
        # Where every check should run, one that cannot is no success.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    site = tmp_path / "site"
    made = site / "made"
    made.mkdir(parents=True)
    (site / "documents").symlink_to(DOCUMENTS)
    (made / "large.bin").write_bytes(random.Random(2).randbytes(20 * 2**20))
    (made / "100% of Größe, #1?.txt").write_text("Größe\r\n\N{SNOWMAN}\n", encoding="utf-8")
    (made / "latin.html").write_bytes('<meta charset="iso-8859-1"><p>Größe'.encode("latin-1"))
    (made / "mark.html").write_text("Größe", encoding="utf-16")
    (made / "empty.html").touch()
    return site


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """The address of an nginx that serves *site*."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        listener.setblocking(False)  # as nginx has it; it takes over the socket, so that nobody can take its port
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        (site.parent / "nginx.conf").write_text(CONFIG.format(address=address))
        nginx = subprocess.Popen(
            [str(NGINX), "-p", site.parent, "-c", "nginx.conf", "-e", "stderr"],
            env={**os.environ, "NGINX": f"{listener.fileno()};"},
            pass_fds=[listener.fileno()],
            cwd=site.parent,
        )
    yield address
    nginx.terminate()
    nginx.wait()


def test_a_document_tree(project: Project, site: Path, address: str) -> None:
    """Each item of a run over thousands of files is the file on disk, and each row is an item or a failure."""
    trees = [DOCUMENTS, site / "made"]
    files = [site / tree.name / file.relative_to(tree) for tree in trees for file in tree.rglob("*") if file.is_file()]
    paths = [str(file.relative_to(site)) for file in sorted(files)]
    rows = {f"http://{address}/{quote(path)}": path for path in paths}
    rows |= {f"http://{address}/moved/{quote(path)}": path for path in paths[:: len(paths) // MOVED][:MOVED]}
    missing = {f"http://{address}/documents/missing-{n}.html": "" for n in range(MISSING)}
    listed = [*rows.items(), *missing.items()]
    random.Random(2).shuffle(listed)
    with (project.path / "list.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("url", "path"), *listed])
    assert len(listed) > 2000

    run = project.scrapy(
        *("crawl", "batch", "-a", "urls=list.csv", "-a", "failures=failures.jsonl", "-O", "items.jsonl"),
        settings={
            "BATCHER_FIELDS": "content_type,encoding,final_url",
            "CONCURRENT_REQUESTS": 32,
            "CONCURRENT_REQUESTS_PER_DOMAIN": 16,
        },
    )

    assert run.status == 0, run.log
    items, failures = project.items(), project.items("failures.jsonl")
    assert Counter(item["url"] for item in items) == Counter(rows.keys())
    assert Counter(failure["url"] for failure in failures) == Counter(missing.keys())
    for item in items:
        path = rows[item["url"]]
        body = (site / path).read_bytes()
        assert item["path"] == path
        assert item["final_url"] == f"http://{address}/{quote(path)}"
        assert item["length"] == len(body), path
        assert item["base64"] == (not item["content_type"].startswith(("text/", "application/xhtml"))), path
        if item["base64"]:
            assert base64.b64decode(item["content"]) == body, path
        else:
            assert item["content"] == body.decode(item["encoding"]), path
    assert {failure["outcome"] for failure in failures} == {"failed/http-404"}

    outcomes = {name: count for name, count in run.stats.items() if name.startswith("batcher/outcomes/")}
    assert outcomes == {"batcher/outcomes/fetched": len(rows), "batcher/outcomes/failed/http-404": MISSING}
    assert run.stats["batcher/rows"] == len(listed)
    assert run.stats["batcher/pending"] == 0
    assert run.stats["batcher/bytes"] == sum(item["length"] for item in items)
    summary = f"{len(listed):,} read = {len(rows):,} fetched + {MISSING} failed + 0 skipped + 0 pending"
    assert summary in run.log
