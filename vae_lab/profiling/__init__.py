"""What training costs at each image size: operations, memory, seconds."""
