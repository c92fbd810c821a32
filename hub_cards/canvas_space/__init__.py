"""The demo Space: two models or presets fill their canvases side by side. It travels to the Space as this folder, so
its files import each other and what a Space has: gradio, torch and transformers."""
