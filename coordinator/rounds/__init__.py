"""What a run, a round and a contribution may become: states and decisions, without SQL, clock, files or network."""
