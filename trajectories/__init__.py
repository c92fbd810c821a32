"""What a teacher did: the row, the dataset, the store, orders, extraction."""

if __name__ != "d3llm.trajectories":  # a second copy of every class
    raise ImportError("trajectories is a part of d3llm: import d3llm.trajectories.")
