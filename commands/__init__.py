"""The `d3llm` command line: one sub-command per file."""

if __name__ != "d3llm.commands":  # a second copy of every class
    raise ImportError("commands is a part of d3llm: import d3llm.commands.")
