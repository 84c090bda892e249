"""Finished runs, anybody's, become tables, pictures and a page. Start at `write`."""
