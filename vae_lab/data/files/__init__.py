"""Files turned into arrays of 8-bit pixels: listed, decoded, cached, downloaded."""
