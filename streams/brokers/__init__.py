"""Brokers that are started here: embedded, or Apache Kafka from Maven."""
