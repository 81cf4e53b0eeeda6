"""What turns global gradients into updates: optimizers, schedules, loss scaling."""
