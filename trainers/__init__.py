"""Trajectory extraction, and the trainer that distils a student on them."""
