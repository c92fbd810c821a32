"""The trainer that distils a student on a teacher's trajectories."""

if __name__ != "d3llm.trainers":  # a second copy of every class
    raise ImportError("trainers is a part of d3llm: import d3llm.trainers.")
