"""What only a GPU can show: run where there is one."""
