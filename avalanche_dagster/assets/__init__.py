"""Asset definitions: the grid as a graph, every other phase as one step."""
