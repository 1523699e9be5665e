"""`scrapy batcher`: what a job directory tells of its job."""
