"""Files, processes, devices and text: what the rest of the package asks of the machine."""
