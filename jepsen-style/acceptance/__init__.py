"""The promises of the main job, one by one, on real clusters of real processes: ``python jepsen-style check``."""
