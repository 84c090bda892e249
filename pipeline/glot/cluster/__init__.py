"""Work over the machines of a Ray cluster: pieces assigned to actors that Ray starts, watches and starts again."""
