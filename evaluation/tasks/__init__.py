"""The tasks that a model is measured on."""
