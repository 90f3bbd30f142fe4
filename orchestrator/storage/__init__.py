"""Files of a sweep in folders and object stores: atomic writes, paths, lock, retries."""
