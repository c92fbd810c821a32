"""Word problems in open words, whose every step can be checked: see `problem.py`."""
