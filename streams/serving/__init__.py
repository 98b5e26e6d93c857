"""From a snapshot to the records that campaign systems read."""
