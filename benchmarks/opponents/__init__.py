"""What clfast is compared with: the loops people write, vectorised PyTorch, other libraries."""
