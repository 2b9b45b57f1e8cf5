"""Many runs read back and laid out beside each other."""
