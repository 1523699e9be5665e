import scrapy


class LinksSpider(scrapy.Spider):
    """An ordinary spider, which knows nothing of lists: it follows the links of the site.

    scrapy crawl links -O items.jsonl

    The add-on gives the semaphore to every spider of the project, and with it a limit that holds: never more than
    two downloads in flight here. The stats at the end of the log say how many there were: ``batcher/permits/peak``.
    """

    name = "links"
    custom_settings = {"CONCURRENT_REQUESTS_PER_DOMAIN": 2}

    async def start(self):
        yield scrapy.Request(f"http://127.0.0.1:{self.settings['SITE_PORT']}/pages/1")

    def parse(self, response):
        yield {"url": response.url, "title": response.css("title::text").get()}
        yield from response.follow_all(css="a")
