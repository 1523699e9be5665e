"""The parts of Scrapy, and the event loop, that are used without being documented, or done in fewer steps."""
