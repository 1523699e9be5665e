"""Downloads by libcurl, with the extra ``fast``."""
