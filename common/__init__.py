"""What every room needs: files, fingerprints, the resume plan, processes, progress. No torch."""

if __name__ != "d3llm.common":  # a second copy of every class
    raise ImportError("common is a part of d3llm: import d3llm.common.")
