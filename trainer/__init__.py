"""From a batch to better weights: devices, models, gradients, sessions, reports."""
