"""What Prometheus sees: metrics, scraped or read from a textfile, and parsed."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.request import Request, urlopen

from prometheus_client.parser import text_string_to_metric_families

ENDPOINT = re.compile(r"Metrics are at http://([\d.]+):(\d+)/metrics")


class Metrics:
    """Those in *text*."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    @property
    def types(self) -> dict[str, str]:
        return dict(re.findall(r"^# TYPE (\S+) (\S+)$", self.text, re.MULTILINE))

    def get(self, name: str, **labels: str) -> float:
        """The value of the one sample of this name that has *labels*."""
        [sample] = [s for s in self.samples if s.name == name and labels.items() <= s.labels.items()]
        return sample.value

    def by(self, name: str, label: str) -> dict[str, float]:
        """The values of the samples of this name that are not 0, by *label*."""
        return {sample.labels[label]: sample.value for sample in self.samples if sample.name == name and sample.value}


def in_file(path: Path) -> Metrics:
    return Metrics(path.read_text())


def get(port: int, accept: str = "text/plain") -> str:
    with urlopen(Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept}), timeout=20) as response:
        return response.read().decode()


def scrape(port: int, condition: Callable[[Metrics], bool] = lambda _: True) -> Metrics:
    """What is at *port*, once *condition* holds."""
    for _ in range(2000):
        metrics = Metrics(get(port))
        if condition(metrics):
            return metrics
    raise AssertionError(f"it never came to hold:\n{metrics.text}")


def is_free(port: int) -> bool:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what was closed a moment ago is not in use
        try:
            other.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
