"""The life of a batch: opened, its targets visited in turn, each settled, summed up."""
