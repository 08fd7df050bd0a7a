"""The curriculum: its levels, what promotes a model to the next, and the control arms."""
