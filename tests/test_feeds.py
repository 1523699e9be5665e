"""The exporters of feeds give what Scrapy's give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import pytest
from scrapy import exporters
from scrapy.http import TextResponse

from scrapy_batcher import BatchItem
from scrapy_batcher.item import make_item
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.outputs import feeds


@dataclass(repr=False, eq=False)
class Own(BatchItem):
    """An item as a project's own spider may have it."""

    url: str
    length: int
    content: str
    base64: bool = False


@dataclass(repr=False, eq=False)
class Fixed(Own):
    kind: str = field(default="page", init=False)  # stays the class's


@dataclass(repr=False, eq=False, slots=True)
class Slotted(Own):
    extra: str = "x"


@dataclass(repr=False, eq=False)
class Serialized(Own):
    extra: str = field(default="x", metadata={"serializer": str.upper})


class Computed(Own):
    @property
    def base64(self) -> str:  # type: ignore[override]  # a project may do so
        return "computed"

    @base64.setter
    def base64(self, value: bool) -> None: ...


def made(*fields: str) -> BatchItem:
    target = Target(1, 1, "http://h/", {"a b": "c"})
    return make_item(target, TextResponse("http://h/", body=b"c"), ["url", "base64", *fields], True)


def with_an_attribute() -> BatchItem:
    item = made()
    item.added = 1  # type: ignore[attr-defined]  # no field, so it is in no feed
    return item


class Renaming(exporters.JsonLinesItemExporter):
    def get_serialized_fields(self, *args: Any, **kwargs: Any) -> Iterable[tuple[str, Any]]:
        return [(name.upper(), value) for name, value in super().get_serialized_fields(*args, **kwargs)]


class Quoting(exporters.JsonLinesItemExporter):
    def serialize_field(self, field: Any, name: str, value: Any) -> str:
        return f"<{value}>"


class OursRenaming(feeds.RecordExporter, Renaming):
    pass


class OursQuoting(feeds.RecordExporter, Quoting):
    pass


@pytest.mark.parametrize(
    "item",
    [
        made(),
        made("length", "content", "status"),
        *(cls("http://h/", 1, "c") for cls in (Own, Fixed, Slotted, Serialized, Computed)),
        with_an_attribute(),
    ],
    ids=lambda item: type(item).__name__,
)
@pytest.mark.parametrize(
    ("ours", "scrapys"),
    [
        *((getattr(feeds, f"{name}ItemExporter"), getattr(exporters, f"{name}ItemExporter"))
          for name in ("JsonLines", "Csv", "Pickle", "Marshal")),
        (OursRenaming, Renaming),
        (OursQuoting, Quoting),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "options",
    [{}, {"export_empty_fields": True}, {"fields_to_export": ["url", "base64"]}, {"fields_to_export": {"url": "U"}}],
)
def test_an_item_is_exported_as_scrapy_does(item: BatchItem, ours: Any, scrapys: Any, options: dict[str, Any]) -> None:
    assert exported(ours, item, options) == exported(scrapys, item, options)


def exported(cls: Any, item: BatchItem, options: dict[str, Any]) -> bytes:
    file = BytesIO()
    exporter = cls(file, **options)
    exporter.start_exporting()
    exporter.export_item(item)
    exporter.finish_exporting()
    return file.getvalue()
