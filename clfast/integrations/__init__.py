"""Adapters for other people's continual-learning libraries; each is imported by its own name."""
