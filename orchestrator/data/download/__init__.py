"""Download and unpack a suite's raw images."""
