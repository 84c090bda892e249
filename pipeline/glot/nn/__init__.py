"""What learns over tokens, in plain torch: token graph, GNN, readout, poolers, heads. Start at `poolers`."""
