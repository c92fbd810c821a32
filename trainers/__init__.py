"""Trajectory extraction, and the trainer that distils a student on them."""

if __name__ != "d3llm.trainers":  # a second copy of every class
    raise ImportError("trainers is a part of d3llm: import d3llm.trainers.")
