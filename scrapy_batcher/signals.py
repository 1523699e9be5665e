"""The signals of scrapy-batcher. Connect to them as to Scrapy's own."""

batch_finished = object()
"""Sent once, when the last visit of a batch is over and its totals are known. Handlers may be coroutines.

:param totals: `scrapy_batcher.Totals`
:param spider: the spider that ran the batch
"""
