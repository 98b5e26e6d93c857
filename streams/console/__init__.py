"""What people see while a command works: bars on a terminal, plain lines everywhere else."""
