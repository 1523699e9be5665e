BOT_NAME = "sample_project"

SPIDER_MODULES = ["sample_project.spiders"]
NEWSPIDER_MODULE = "sample_project.spiders"

# The one line that switches scrapy-batcher on: the spider "batch", and exact limits for every spider.
ADDONS = {"scrapy_batcher.Addon": 300}

# The site that this project crawls. The URLs in urls.txt and urls.csv name the port too.
EXTENSIONS = {"sample_project.site.LocalSite": 500}
SITE_PORT = 8765

# The limits are Scrapy's own settings: downloads at once in all, and from one host. The first is also how many URLs
# a batch works on at once.
CONCURRENT_REQUESTS = 8
CONCURRENT_REQUESTS_PER_DOMAIN = 4

# What an item of the spider "batch" has of its page; without this: url, length, content, base64.
# BATCHER_FIELDS = ["url", "status", "headers", "final_url", "content_type", "encoding", "fetched_at", "elapsed"]

FEED_EXPORT_ENCODING = "utf-8"
LOG_LEVEL = "INFO"
TELNETCONSOLE_ENABLED = False
