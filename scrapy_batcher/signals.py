"""The signals of scrapy-batcher, to be connected as Scrapy's own are."""

batch_finished = object()
"""Sent once, when the last visit of a batch is over and its totals are known; handlers may be coroutines.

:param totals: `scrapy_batcher.Totals`
:param spider: the spider that ran the batch
"""
