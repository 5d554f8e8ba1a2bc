"""What runs need: devices, processes, random numbers, files and folders, stopping and resuming."""
