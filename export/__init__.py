"""A run becomes a bundle that is proven before it has its name."""
