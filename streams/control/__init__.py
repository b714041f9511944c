"""The control plane: timers and low-rate topics."""
