"""Files, processes, devices and text."""
