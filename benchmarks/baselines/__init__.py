"""Whole methods in plain PyTorch, which those of clfast are measured against and tested by."""
