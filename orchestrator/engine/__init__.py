"""The engine: trains many trials at once on one frozen backbone. Pure torch."""
