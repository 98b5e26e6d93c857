"""What is on the wire: records, topics, codec and errors. No I/O, no clock, no environment."""
