"""The ingest core without Kafka: training sets, recorded outcomes, rebuilt snapshots."""
