"""The cache on disk: its format (`layout`), what is in it (`plan`, `example_set`), writing and reading it."""
