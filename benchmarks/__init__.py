"""What Timestore costs, measured against the same work done by hand on the same machine in the same minutes."""
