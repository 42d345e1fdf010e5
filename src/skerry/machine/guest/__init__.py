"""What runs inside the machine: the agent, as process 1 of the guest."""
