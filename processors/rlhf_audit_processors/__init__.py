"""Stream processors: the seal loop of a partition, its recovery, and the sequencer of the global log."""
