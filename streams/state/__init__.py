"""The store: a small key-value contract, RocksDB and its in-memory twin, keys, changelog."""
