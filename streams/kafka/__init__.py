"""Kafka as the rest of the code sees it: clients, Faust's transport, outbox, offsets, readers."""
