"""What people see: tables of runs, stores, plans and comparisons."""
