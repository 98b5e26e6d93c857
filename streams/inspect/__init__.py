"""Looking at what is there: customers, entities, records, dead letters."""
