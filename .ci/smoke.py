"""A few pages by the batch spider, from an environment that has nothing but scrapy-batcher and what it must have.

Run by the Python of that environment; needs no network. With ``--without-extras`` it also looks at what each feature
says without its extra, with ``--with-extras`` at what they all do with theirs.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

PAGES = 5

SETTINGS = """
ADDONS = {"scrapy_batcher.Addon": 300}
TELNETCONSOLE_ENABLED = False
REMOTE_CONTROL_ENABLED = False
LOG_LEVEL = "INFO"
"""

REACTORS = {
    "asyncio": [],
    "Twisted's default": ["-s", "TWISTED_REACTOR="],
}
# Then somebody else has to download: libcurl, or aiohttp, which comes with Scrapy from 2.19 on.
if find_spec("pycurl") or find_spec("aiohttp"):
    REACTORS["none"] = ["-s", "TWISTED_REACTOR_ENABLED=False"]

# What each feature says when its extra is not there, and whether the batch ends.
WITHOUT = {
    "parquet, list": (["-a", "urls=list.parquet"], "pip install 'scrapy-batcher[parquet]'", 1),
    "parquet, feed": (
        ["-s", 'FEEDS={"items.parquet": {"format": "parquet"}}'],
        "pip install 'scrapy-batcher[parquet]'",
        1,
    ),
    "warc": (["-s", "BATCHER_WARC=pages.warc"], "pip install 'scrapy-batcher[warc]'", 1),
    "remote": (["-a", "urls=s3://bucket/list.txt"], "pip install 'scrapy-batcher[remote]'", 1),
    "metrics": (["-s", "BATCHER_METRICS=0"], "pip install 'scrapy-batcher[metrics]'", 1),
    "progress": (["-s", "BATCHER_PROGRESS=bar"], "pip install 'scrapy-batcher[progress]'", 0),
    "fast": (["-s", "BATCHER_HTTP2=True"], "pip install 'scrapy-batcher[fast]'", 0),
}


# Every extra at its work in one batch, but for the bar, which needs a terminal: `fast` where nothing else is said,
# `remote` and `parquet` for the list, `parquet` for the feed, `warc`, `metrics`.
WITH = ["-s", 'FEEDS={"items.parquet": {"format": "parquet"}}', "-s", "BATCHER_WARC=pages.warc.gz"]
WITH += ["-s", "BATCHER_METRICS=batch.prom"]


class Site(BaseHTTPRequestHandler):
    """Answers every path with that path, but one that ends in ``.parquet`` with a list of all pages."""

    def do_GET(self) -> None:
        body = self.list_of_pages() if self.path.endswith(".parquet") else self.path.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def list_of_pages(self) -> bytes:
        file = io.BytesIO()
        table = import_module("pyarrow").table({"url": pages(self.server.server_port)})
        import_module("pyarrow.parquet").write_table(table, file)
        return file.getvalue()

    def log_message(self, *args: object) -> None:
        """Nobody reads it."""


def pages(port: int) -> list[str]:
    return [f"http://127.0.0.1:{port}/{n}" for n in range(PAGES)]


def scrapy(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """The command `scrapy` of this environment, in *folder*; a warning is an error."""
    command = Path(sys.executable).parent / "scrapy"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHONWARNINGS"] = "error"
    return subprocess.run(
        [command, *args], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def crawl(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return scrapy(folder, "crawl", "batch", "-a", "urls=urls.txt", *args)


def check(condition: bool, what: str, run: subprocess.CompletedProcess[str]) -> None:
    """End with *what* *run* should have done, and what it did, unless *condition*."""
    if not condition:
        sys.exit(f"{what}; status {run.returncode}\n{run.stdout}{run.stderr}")


def check_crawl(folder: Path, reactor: str) -> None:
    """A job on *reactor* fetches all pages, and the command `status` knows of it."""
    name = reactor.split("'")[0]
    run = crawl(folder, "-O", f"{name}.jsonl", "-s", f"JOBDIR={name}", *REACTORS[reactor])
    totals = f"{PAGES} read = {PAGES} fetched + 0 failed + 0 skipped + 0 pending"
    check(run.returncode == 0 and totals in run.stderr, f"on {reactor} all pages should have been fetched", run)
    items = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    check(sorted(item["content"] for item in items) == [f"/{n}" for n in range(PAGES)], "each gives an item", run)
    run = scrapy(folder, "batcher", "status", name)
    check(run.returncode == 0 and f"{PAGES} fetched" in run.stdout, "the status should say that they were fetched", run)


def check_sentence(folder: Path, feature: str) -> None:
    """Without its extra, *feature* says once what to install, and nothing else is wrong."""
    args, sentence, status = WITHOUT[feature]
    run = crawl(folder, *args)
    told = run.stderr.count(sentence) == 1 and "Traceback" not in run.stderr and run.returncode == status
    check(told, f"{feature}: should have said once {sentence!r}, with the status {status}", run)


def check_extras(folder: Path, port: int) -> None:
    """With all extras, what each of them is for is there."""
    run = crawl(folder, "-a", f"urls=http://127.0.0.1:{port}/list.parquet", *WITH)
    check(run.returncode == 0 and f"{PAGES} fetched" in run.stderr, "all pages should have been fetched", run)
    feed = import_module("pyarrow.parquet").read_table(folder / "items.parquet").to_pylist()
    check(sorted(item["url"] for item in feed) == pages(port), "each should be in the Parquet feed", run)
    with (folder / "pages.warc.gz").open("rb") as file:
        records = import_module("warcio.archiveiterator").ArchiveIterator(file)
        archived = [record.rec_headers["WARC-Target-URI"] for record in records if record.rec_type == "response"]
    check(sorted(archived) == pages(port), "each should be in the archive", run)
    metrics = (folder / "batch.prom").read_text()
    check(f'outcome="fetched",spider="batch"}} {PAGES}.0' in metrics, "each should be counted", run)
    import_module("scrapy_batcher.monitoring.bar")  # tqdm is one that it can draw with


def main() -> None:
    features = WITHOUT if sys.argv[1:] == ["--without-extras"] else {}
    has_extras = sys.argv[1:] == ["--with-extras"]
    with TemporaryDirectory() as name, ThreadingHTTPServer(("127.0.0.1", 0), Site) as site:
        Thread(target=site.serve_forever, daemon=True).start()
        folder = Path(name)
        (folder / "scrapy.cfg").write_text("[settings]\ndefault = project_settings\n")
        (folder / "project_settings.py").write_text(SETTINGS)
        (folder / "urls.txt").write_text("\n".join(pages(site.server_port)))
        (folder / "list.parquet").write_bytes(b"PAR1")
        where = subprocess.run(
            [sys.executable, "-I", "-c", "import scrapy_batcher as s; print(s.__file__, s.__version__)"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        check(where.stdout.startswith(sys.prefix), "scrapy_batcher should come from the environment", where)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda reactor: check_crawl(folder, reactor), REACTORS))
            list(pool.map(lambda feature: check_sentence(folder, feature), features))
        if has_extras:
            check_extras(folder, site.server_port)
        site.shutdown()
    seen = [f"a job on {', on '.join(REACTORS)}", *(f"without {feature}" for feature in features)]
    seen += ["all extras"] if has_extras else []
    print(f"Python {sys.version.split()[0]}, Scrapy {version('scrapy')}: {'; '.join(seen)}")


if __name__ == "__main__":
    main()
