from scrapy_batcher import BatchSpider


class TitlesSpider(BatchSpider):
    """A batch with a `parse` of its own: the title of each page, beside the columns of its row.

    scrapy crawl titles -a urls=urls.csv -O items.jsonl
    """

    name = "titles"

    def parse(self, response):
        target = response.meta["batcher_target"]  # the row: it comes along through retries and redirects
        return [{"url": target.url, **target.columns, "title": response.css("title::text").get()}]
