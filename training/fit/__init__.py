"""How a model is fitted: the step and its optimisers, the epochs, what survives a stop, several processes."""
