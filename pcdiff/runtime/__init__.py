"""What a run stands on: devices, processes, random numbers, files and folders, stopping and resuming."""
