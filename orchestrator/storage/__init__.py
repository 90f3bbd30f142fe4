"""Where a sweep lies: whole files in folders and object stores, its paths, its lock, retries."""
