"""What benchmarks/faults.py does to processes, disks, clocks and memory."""
