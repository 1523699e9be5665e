"""A small site on this machine, so that the first crawl needs no network. A project of your own has no use for it."""

import logging
import time
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from scrapy import signals
from scrapy.exceptions import CloseSpider

logger = logging.getLogger(__name__)

TITLES = ["Menu", "Soup", "Bread", "Crème brûlée", "Dumplings", "Pancakes", "Curry", "Tea"]


def html(title, body=""):
    return f"<!DOCTYPE html><title>{title}</title><h1>{title}</h1>{body}\n".encode()


def link(number):
    return f'<a href="/pages/{number}">{TITLES[number - 1]}</a>'


# Each page links to the first, and page n to 2n and 2n + 1, so that whoever follows the links finds all eight.
PAGES = {
    f"/pages/{n}": html(title, " ".join(link(m) for m in (1, 2 * n, 2 * n + 1) if m <= len(TITLES)))
    for n, title in enumerate(TITLES, 1)
}
DOT = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        match self.path:
            case "/slow":
                time.sleep(1)
                self.answer(200, html("Slow cooking"))
            case "/old-menu":
                self.answer(301, Location="/pages/1")
            case "/flaky":
                self.answer(200 if self.server.flaky_was_asked else 503, html("Better late than never"))
                self.server.flaky_was_asked = True
            case "/dot.png":
                self.answer(200, DOT, "image/png")
            case path if path in PAGES:
                self.answer(200, PAGES[path])
            case _:
                self.answer(404, html("Not on the menu"))

    def answer(self, status, body=b"", content_type="text/html; charset=utf-8", **headers):
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": len(body), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Log nothing: the spider's log is the one to read."""


class Site(ThreadingHTTPServer):
    flaky_was_asked = False

    def handle_error(self, request, client_address):
        """Say nothing when a client leaves before its answer is there, as a spider that is stopped does."""


class LocalSite:
    """An extension that has the site up while a spider is open."""

    def __init__(self, port):
        self.port = port
        self.site = None

    @classmethod
    def from_crawler(cls, crawler):
        extension = cls(crawler.settings.getint("SITE_PORT"))
        crawler.signals.connect(extension.spider_opened, signals.spider_opened)
        crawler.signals.connect(extension.spider_closed, signals.spider_closed)
        return extension

    def spider_opened(self):
        try:
            self.site = Site(("127.0.0.1", self.port), Page)
        except OSError as e:
            logger.error(
                "The local site cannot use port %d (%s): stop what uses it, or change SITE_PORT in settings.py "
                "and the port in urls.txt and urls.csv.",
                self.port,
                e.strerror,
            )
            raise CloseSpider("no_local_site") from e
        Thread(target=self.site.serve_forever, args=[0.05], name="local site", daemon=True).start()

    def spider_closed(self):
        if self.site:
            self.site.shutdown()
            self.site.server_close()
